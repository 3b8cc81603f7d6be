//! One source, three machine codes: `vectorized!` compiles a loop for AVX-512, for AVX2 and for the baseline,
//! and picks at run time what the processor has.
//!
//! A binary built for plain x86-64 would otherwise run every loop with 128-bit vectors. The loops themselves stay
//! ordinary Rust over slices; nothing here depends on what they compute.

/// Whether the AVX-512 code may run.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512dq")
}

/// Whether products of bf16 pairs may run.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn has_avx512_bf16() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512bf16")
}

/// Whether products of bf16 tiles may run: the processor has AMX, and Linux lets this process use its registers, which it has to be
/// asked for once. `STOP_MIM_NO_AMX=1` in the environment does without.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn has_amx() -> bool {
    static ALLOWED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ALLOWED.get_or_init(|| {
        // SAFETY: a processor with AVX-512 has this leaf. (Safe from Rust 1.94 on.)
        #[allow(unused_unsafe, reason = "Rust before 1.94")]
        let leaf = || unsafe { std::arch::x86_64::__cpuid_count(7, 0).edx };
        let bf16_and_tiles = 1 << 22 | 1 << 24;
        let wanted = std::env::var_os("STOP_MIM_NO_AMX").is_none();
        wanted && has_avx512_bf16() && leaf() & bf16_and_tiles == bf16_and_tiles && may_use_tiles()
    })
}

/// Asks Linux for permission.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn may_use_tiles() -> bool {
    const ARCH_PRCTL: isize = 158;
    const REQUEST_PERMISSION: usize = 0x1023;
    const CONTENTS_OF_TILES: usize = 18;
    let answer: isize;
    // SAFETY: a system call with two numbers, which changes nothing but what this process may do. It overwrites rcx and r11.
    unsafe {
        std::arch::asm!(
            "syscall", inlateout("rax") ARCH_PRCTL => answer, in("rdi") REQUEST_PERMISSION, in("rsi") CONTENTS_OF_TILES,
            lateout("rcx") _, lateout("r11") _, options(nostack),
        );
    }
    answer == 0
}

/// How other systems are asked was not looked into.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn may_use_tiles() -> bool {
    false
}

/// Whether the AVX2 code may run. (Processors with AVX2 and without FMA are very few; they run the baseline.)
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Whether `mul_add` in a [`vectorized!`] function is an instruction; elsewhere it is a slow call.
#[inline]
pub fn has_fma() -> bool {
    #[cfg(target_arch = "x86_64")]
    return has_avx512() || has_avx2();
    #[cfg(not(target_arch = "x86_64"))]
    return cfg!(target_arch = "aarch64");
}

/// Defines functions generic over one [`Real`](crate::kernels::Real) (and, if need be, types to
/// [store](crate::kernels::Element) in) whose bodies are compiled three times.
///
/// Multiplications and additions are not contracted into FMA, unless the source says `mul_add`: the three codes give the
/// same bits.
macro_rules! vectorized {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident<$T:ident $(, $U:ident)*>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)+) => {$(
        $(#[$meta])*
        $vis fn $name<$T: $crate::kernels::Real $(, $U: $crate::kernels::Element)*>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<$T: $crate::kernels::Real $(, $U: $crate::kernels::Element)*>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq")]
                fn avx512<$T: $crate::kernels::Real $(, $U: $crate::kernels::Element)*>($($arg: $ty),*) $(-> $ret)? {
                    body::<$T $(, $U)*>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2<$T: $crate::kernels::Real $(, $U: $crate::kernels::Element)*>($($arg: $ty),*) $(-> $ret)? {
                    body::<$T $(, $U)*>($($arg),*)
                }
                if $crate::kernels::simd::has_avx512() {
                    // SAFETY: the processor was just found to have what `avx512` is compiled for.
                    return unsafe { avx512::<$T $(, $U)*>($($arg),*) };
                }
                if $crate::kernels::simd::has_avx2() {
                    // SAFETY: the processor was just found to have what `avx2` is compiled for.
                    return unsafe { avx2::<$T $(, $U)*>($($arg),*) };
                }
            }
            body::<$T $(, $U)*>($($arg),*)
        }
    )+};
}
pub(crate) use vectorized;

/// Independent partial results of a reduction along a row, so that it uses vector registers; their number fixes the
/// order of summation, and with it the bits.
pub const LANES: usize = 16;

/// Reduces rows x and y of one length side by side: 16 running results, then these together.
///
/// By whole arrays of 16, because an index would be checked, and loops with checks do not become vector code.
#[inline(always)]
pub fn reduce<T: Copy, S: Copy>(
    x: &[T],
    y: &[T],
    start: S,
    step: impl Fn(S, T, T) -> S,
    join: impl Fn(S, S) -> S,
) -> S {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut lanes = [start; LANES];
    for (x, y) in x.iter().zip(y) {
        for lane in 0..LANES {
            lanes[lane] = step(lanes[lane], x[lane], y[lane]);
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane = step(*lane, x, y);
    }
    self::join(lanes, join)
}

/// Sixteen results to one: halves onto halves.
#[inline(always)]
pub fn join<T: Copy>(mut lanes: [T; LANES], join: impl Fn(T, T) -> T) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = join(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Σ x.
#[inline(always)]
pub fn sum<T: crate::kernels::Real>(x: &[T]) -> T {
    reduce(x, x, T::ZERO, |s, x, _| s + x, |a, b| a + b)
}
