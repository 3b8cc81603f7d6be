//! A processor that plays AMX, for tests: where there is none, its instructions are illegal, and Linux tells the program so. A
//! handler of that signal does what the instruction would have done, to tiles of the thread's own, and goes on behind it.
//!
//! So the tests run the very instructions of the kernel: their encodings, addresses, the order of tiles and sums, what lies at
//! the edges. What only hardware can show they cannot: that it sums in the order of its manual, that Linux grants the registers,
//! and speed.

use std::cell::UnsafeCell;
use std::sync::Once;

use super::tests::in_chains;

/// Eight tiles of 16 rows of 16 lanes, and their configuration: rows and bytes of a row of each.
struct Tiles {
    lanes: [[[u32; 16]; 16]; 8],
    rows: [u8; 8],
    bytes: [u16; 8],
}

thread_local! {
    static TILES: UnsafeCell<Tiles> = const { UnsafeCell::new(Tiles { lanes: [[[0; 16]; 16]; 8], rows: [0; 8], bytes: [0; 8] }) };
}

/// As glibc has it.
#[repr(C)]
struct SignalAction {
    // SAFETY: of whoever calls it, which is the system.
    handler: unsafe extern "C" fn(i32, *const u8, *mut Context),
    mask: [u64; 16],
    flags: i32,
    restorer: usize,
}

/// What a handler is told of the thread, as far as it is needed: `ucontext_t` of Linux on x86-64.
#[repr(C)]
struct Context {
    flags_link_and_stack: [u64; 5],
    /// r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
    registers: [u64; 17],
}

const RIP: usize = 16;
/// Where the register with this number in an instruction is among [`Context::registers`].
const REGISTERS: [usize; 16] = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];

// SAFETY: as the C library of Linux declares them.
unsafe extern "C" {
    fn sigaction(signal: i32, action: *const SignalAction, before: *mut SignalAction) -> i32;
    fn signal(signal: i32, handler: usize) -> usize;
}

const SIGILL: i32 = 4;

/// From now on this process has AMX.
pub fn play_amx() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        const WITH_CONTEXT: i32 = 4;
        let action = SignalAction { handler: illegal, mask: [0; 16], flags: WITH_CONTEXT, restorer: 0 };
        // SAFETY: the layout is that of glibc, and the handler touches the thread's own tiles and what the instruction says.
        assert_eq!(unsafe { sigaction(SIGILL, &raw const action, std::ptr::null_mut()) }, 0, "no handler");
    });
}

/// # Safety
/// Called by the system, for an instruction.
unsafe extern "C" fn illegal(_: i32, _: *const u8, context: *mut Context) {
    // SAFETY: the system's promise: registers of a thread that stands before an instruction.
    let registers = unsafe { &mut (*context).registers };
    // SAFETY: as above; what the tiles of a thread hold is nobody else's.
    let length = unsafe { TILES.with(|tiles| play(registers, &mut *tiles.get())) };
    match length {
        Some(length) => registers[RIP] += length as u64,
        // SAFETY: the default: the instruction comes again, and ends the process.
        None => drop(unsafe { signal(SIGILL, 0) }),
    }
}

/// The bytes of the instruction at hand, if it is one of AMX and was played.
///
/// # Safety
/// The registers are those before an instruction, whose memory is there.
unsafe fn play(registers: &[u64; 17], tiles: &mut Tiles) -> Option<usize> {
    let at = registers[RIP] as *const u8;
    // SAFETY: no instruction of AMX is shorter than five bytes, and none follows the last of a program.
    let code = |i: usize| unsafe { *at.add(i) };
    // VEX.128.0F38.W0: inverted high bits of three registers, then W, the inverted second operand, length and prefix.
    if code(0) != 0xC4 || code(1) & 0x1F != 2 || code(2) & 0x84 != 0 {
        return None;
    }
    let (prefix, opcode, modrm) = (code(2) & 3, code(3), code(4));
    let (reg, rm) = ((modrm >> 3 & 7) as usize, (modrm & 7) as usize);
    let in_memory = modrm >> 6 != 3;
    let (address, stride, length) = if in_memory {
        let high = |bit: u8| if code(1) & bit == 0 { 8 } else { 0 };
        let register = |number: usize| registers[REGISTERS[number]];
        let (base, stride, mut length) = match rm {
            4 => {
                let (scale, index, base) = (code(5) >> 6, (code(5) >> 3 & 7) as usize, (code(5) & 7) as usize);
                (register(base | high(0x20)), register(index | high(0x40)) << scale, 6)
            }
            5 if modrm >> 6 == 0 => return None, // relative to rip: nobody asks for it
            _ => (register(rm | high(0x20)), 0, 5),
        };
        let offset = match modrm >> 6 {
            0 => 0,
            1 => {
                length += 1;
                i64::from(code(length - 1) as i8)
            }
            _ => {
                length += 4;
                i64::from(i32::from_le_bytes(std::array::from_fn(|i| code(length - 4 + i))))
            }
        };
        (base.wrapping_add_signed(offset), stride, length)
    } else {
        (0, 0, 5)
    };
    if opcode == 0x4B && (rm != 4 || tiles.rows[reg] == 0) {
        return None; // without a row to the next, or not configured
    }
    let row = |tiles: &Tiles, r: usize| ((address + stride * r as u64) as *mut u8, usize::from(tiles.bytes[reg]));
    match (opcode, prefix, in_memory) {
        // ldtilecfg
        (0x49, 0, true) => {
            let configuration = address as *const u8;
            // SAFETY: 64 bytes.
            let byte = |i: usize| unsafe { *configuration.add(i) };
            assert!(byte(0) == 1 && (1..16).all(|i| byte(i) == 0), "palette, first row, and reserved bytes");
            tiles.bytes = std::array::from_fn(|i| u16::from_le_bytes([byte(16 + 2 * i), byte(17 + 2 * i)]));
            tiles.rows = std::array::from_fn(|i| byte(48 + i));
            tiles.lanes = [[[0; 16]; 16]; 8];
        }
        // tilerelease
        (0x49, 0, false) => (tiles.bytes, tiles.rows) = ([0; 8], [0; 8]),
        // tilezero
        (0x49, 3, false) => tiles.lanes[reg] = [[0; 16]; 16],
        // tileloadd
        (0x4B, 3, true) => {
            tiles.lanes[reg] = [[0; 16]; 16];
            for r in 0..usize::from(tiles.rows[reg]) {
                let (from, bytes) = row(tiles, r);
                // SAFETY: the instruction reads there.
                unsafe { std::ptr::copy_nonoverlapping(from, tiles.lanes[reg][r].as_mut_ptr().cast(), bytes) };
            }
        }
        // tilestored
        (0x4B, 2, true) => {
            for r in 0..usize::from(tiles.rows[reg]) {
                let (to, bytes) = row(tiles, r);
                // SAFETY: the instruction writes there.
                unsafe { std::ptr::copy_nonoverlapping(tiles.lanes[reg][r].as_ptr().cast(), to, bytes) };
            }
        }
        // tdpbf16ps
        (0x5C, 2, false) => {
            let second = (!code(2) >> 3 & 7) as usize;
            multiply(tiles, reg, rm, second);
        }
        _ => return None,
    }
    Some(length)
}

fn multiply(tiles: &mut Tiles, sums: usize, a: usize, b: usize) {
    let [pairs, columns] = [a, sums].map(|tile| usize::from(tiles.bytes[tile]) / 4);
    assert!(sums != a && sums != b && a != b, "a tile twice");
    assert!(pairs == usize::from(tiles.rows[b]) && pairs > 0, "tiles that do not fit, or are not configured");
    assert!(tiles.bytes[b] == tiles.bytes[sums] && tiles.rows[a] == tiles.rows[sums], "sums that do not fit");
    let halves = |x: u32| [x << 16, x & 0xFFFF_0000].map(f32::from_bits);
    let (a, b) = (tiles.lanes[a], tiles.lanes[b]);
    for (r, a) in a.iter().enumerate().take(usize::from(tiles.rows[sums])) {
        for j in 0..columns {
            let products = (0..pairs).map(|l| {
                let (a, b) = (halves(a[l]), halves(b[l][j]));
                [[a[0], b[0]], [a[1], b[1]]]
            });
            let sum = &mut tiles.lanes[sums][r][j];
            *sum = in_chains(f32::from_bits(*sum), products).to_bits();
        }
    }
}
