//! L-BFGS: minimize a smooth function from its values and gradients, with memory for a few past steps only.
//!
//! Newton's direction is −H⁻¹g. BFGS builds H⁻¹ from what steps reveal: going from x to x⁺ with s = x⁺ − x, the
//! gradient changes by y = g⁺ − g ≈ H s, so ask the new estimate for H⁻¹y = s (the secant equation) and change the
//! old one as little as possible, keeping it symmetric:
//!
//! ```text
//! H⁻¹ ← (I − ρ s yᵀ) H⁻¹ (I − ρ y sᵀ) + ρ s sᵀ,   ρ = 1 / yᵀs
//! ```
//!
//! It stays positive definite exactly while yᵀs > 0, which the line search guarantees. The limited-memory form never
//! writes H⁻¹ down: it keeps the last few (s, y) and applies the product of those factors to g from the outside in,
//! then from the inside out (the two loops of `direction`), around a core γH₀⁻¹. H₀ is the caller's guess of the
//! Hessian, a preconditioner (the identity will do, slowly); γ = sᵀy / yᵀH₀⁻¹y fits its scale to the newest step. One
//! iteration costs `4 · history · n` multiplications besides the function and H₀⁻¹.
//!
//! The step length t is bisected until φ(t) = f(x + t d) satisfies the weak Wolfe conditions: f has fallen in
//! proportion to the step, and the slope has become less steep. For values that carry rounding noise (ours are sums
//! of f32 products) the first condition becomes unanswerable near the minimum; Hager and Zhang's approximate form
//! asks the slope instead.
//!
//! - J. Nocedal, Updating quasi-Newton matrices with limited storage, Math. Comp. 35 (1980).
//! - D. C. Liu, J. Nocedal, On the limited memory BFGS method for large scale optimization, Math. Prog. 45 (1989).
//! - A. S. Lewis, M. L. Overton, Nonsmooth optimization via quasi-Newton methods, Math. Prog. 141 (2013), Alg. 2.6.
//! - W. W. Hager, H. Zhang, A new conjugate gradient method with guaranteed descent, SIAM J. Optim. 16 (2005), (T2).

use std::collections::VecDeque;

use super::{add_scaled, dot, norm};

/// When to stop, and how much to remember.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of past steps kept (m in the papers).
    pub history: usize,
    /// Give up after this many steps.
    pub max_iterations: usize,
    /// Converged when ‖g‖₂ is at most this.
    pub gradient_norm: f64,
}

/// Where a minimization ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Minimum {
    /// x, the last point reached.
    pub point: Vec<f64>,
    /// f(x).
    pub value: f64,
    /// ‖∇f(x)‖₂.
    pub gradient_norm: f64,
    /// Steps taken.
    pub iterations: usize,
    /// Whether the gradient norm fell to the tolerance. If not: steps ran out, or no step went down any more
    /// (the noise of f was reached, or f is not finite).
    pub converged: bool,
}

/// Armijo's constant c₁: the share of the linear prediction by which f must fall.
const DECREASE: f64 = 1e-4;
/// Wolfe's constant c₂: the share of the slope that may be left.
const CURVATURE: f64 = 0.9;
/// Relative noise of f: within it of f(x), a value counts as unchanged and the slope decides (Hager and Zhang's ε).
const NOISE: f64 = 1e-6;
/// Trial steps of one line search. Bisection from 1 to the precision of f64.
const MAX_TRIALS: usize = 52;

/// x with f(x) and ∇f(x).
struct Point {
    x: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

/// One step: s = x⁺ − x, y = g⁺ − g, ρ = 1 / yᵀs.
struct Step {
    s: Vec<f64>,
    y: Vec<f64>,
    rho: f64,
}

/// Minimizes `f`, which returns value and gradient at a point, from `start`. `precondition` replaces v by H₀⁻¹v.
///
/// It holds `2 · history + 8` vectors as long as `start`, at most.
///
/// 1. Stop if the gradient is small.
/// 2. Take the direction −H⁻¹g from the remembered steps.
/// 3. Search along it for a Wolfe point; if there is none, forget the steps and try −H₀⁻¹g once before giving up.
/// 4. Remember the step.
///
/// # Errors
/// The first error of `f`: so can its caller end the search.
pub fn minimize<E>(
    start: Vec<f64>,
    options: &Options,
    precondition: impl Fn(&mut [f64]),
    mut f: impl FnMut(&[f64]) -> Result<(f64, Vec<f64>), E>,
) -> Result<Minimum, E> {
    let mut evaluate = |x: Vec<f64>| {
        let (value, gradient) = f(&x)?;
        Ok(Point { x, value, gradient })
    };
    let mut at = evaluate(start)?;
    let mut steps = VecDeque::new();
    let mut iterations = 0;
    loop {
        // 1.
        let gradient_norm = norm(&at.gradient);
        let converged = gradient_norm <= options.gradient_norm;
        let finish = |at: Point| Minimum { point: at.x, value: at.value, gradient_norm, iterations, converged };
        if converged || iterations == options.max_iterations {
            return Ok(finish(at));
        }
        // 2.
        let direction = direction(&at.gradient, &steps, &precondition);
        // 3.
        let Some(next) = line_search(&mut evaluate, &at, &direction)? else {
            if steps.is_empty() {
                return Ok(finish(at));
            }
            steps.clear();
            continue;
        };
        // 4. Rounding may leave yᵀs = 0 on a flat function: such a step teaches nothing.
        let (s, y) = (difference(&next.x, &at.x), difference(&next.gradient, &at.gradient));
        let ys = dot(&y, &s);
        if ys > 0.0 && options.history > 0 {
            if steps.len() == options.history {
                steps.pop_front();
            }
            steps.push_back(Step { s, y, rho: 1.0 / ys });
        }
        at = next;
        iterations += 1;
    }
}

/// −H⁻¹g by the two-loop recursion.
fn direction(gradient: &[f64], steps: &VecDeque<Step>, precondition: impl Fn(&mut [f64])) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(steps.len());
    for Step { s, y, rho } in steps.iter().rev() {
        let alpha = rho * dot(s, &q);
        add_scaled(&mut q, -alpha, y);
        alphas.push(alpha);
    }
    precondition(&mut q);
    if let Some(Step { y, rho, .. }) = steps.back() {
        let mut hy = y.clone();
        precondition(&mut hy);
        let gamma = 1.0 / (rho * dot(y, &hy));
        q.iter_mut().for_each(|q| *q *= gamma);
    }
    for (Step { s, y, rho }, alpha) in steps.iter().zip(alphas.into_iter().rev()) {
        let beta = rho * dot(y, &q);
        add_scaled(&mut q, alpha - beta, s);
    }
    q
}

/// A point x + t d with the weak Wolfe conditions, or `None` when bisection finds none.
///
/// Invariant: `low` went down too little in slope, `high` too little in value; a Wolfe point lies between.
fn line_search<E>(f: &mut impl FnMut(Vec<f64>) -> Result<Point, E>, at: &Point, d: &[f64]) -> Result<Option<Point>, E> {
    let slope = dot(&at.gradient, d);
    let (mut low, mut high, mut t) = (0.0, f64::INFINITY, 1.0);
    for _ in 0..MAX_TRIALS {
        let mut x = at.x.clone();
        add_scaled(&mut x, t, d);
        let next = f(x)?;
        let next_slope = dot(&next.gradient, d);
        let fell = next.value <= at.value + DECREASE * t * slope
            || (next.value <= at.value + NOISE * at.value.abs() && next_slope <= (2.0 * DECREASE - 1.0) * slope);
        // A comparison with NaN is false: a step that leaves the domain of f is too long.
        if !fell {
            high = t;
        } else if next_slope < CURVATURE * slope {
            low = t;
        } else {
            return Ok(Some(next));
        }
        t = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * low };
    }
    Ok(None)
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const OPTIONS: Options = Options { history: 10, max_iterations: 200, gradient_norm: 1e-9 };

    /// The minimum of a function without errors.
    fn minimize(
        start: Vec<f64>,
        options: &Options,
        precondition: impl Fn(&mut [f64]),
        mut f: impl FnMut(&[f64]) -> (f64, Vec<f64>),
    ) -> Minimum {
        let Ok(found) = super::minimize(start, options, precondition, |x| Ok::<_, Infallible>(f(x)));
        found
    }

    /// ½ Σ aᵢ (xᵢ − i)², its minimum at (0, 1, 2, …).
    fn bowl(curvatures: &[f64], x: &[f64]) -> (f64, Vec<f64>) {
        let gradient: Vec<f64> = (0..x.len()).map(|i| curvatures[i] * (x[i] - i as f64)).collect();
        (0.5 * gradient.iter().zip(curvatures).map(|(g, a)| g * g / a).sum::<f64>(), gradient)
    }

    #[test]
    fn minima_known_by_hand() {
        let curvatures = [1.0, 1e1, 1e2, 1e3, 1e4];
        let quadratic = |x: &[f64]| bowl(&curvatures, x);
        let rosenbrock = |x: &[f64]| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            (a * a + 100.0 * b * b, vec![-2.0 * a - 400.0 * x[0] * b, 200.0 * b])
        };
        // f(x) = 9(x − ln x), NaN below 0, where the first step from 3 leads.
        let half_line = |x: &[f64]| (9.0 * (x[0] - x[0].ln()), vec![9.0 - 9.0 / x[0]]);
        type Case<'a> = (&'a str, Vec<f64>, &'a dyn Fn(&[f64]) -> (f64, Vec<f64>), Vec<f64>);
        let cases: [Case; 3] = [
            ("condition number 10⁴", vec![5.0; 5], &quadratic, vec![0.0, 1.0, 2.0, 3.0, 4.0]),
            ("Rosenbrock's valley", vec![-1.2, 1.0], &rosenbrock, vec![1.0, 1.0]),
            ("a step out of the domain", vec![3.0], &half_line, vec![1.0]),
        ];
        for (name, start, f, minimum) in cases {
            let found = minimize(start, &OPTIONS, |_| (), f);
            assert!(found.converged && found.iterations < 60, "{name}: {found:?}");
            assert!(found.point.iter().zip(minimum).all(|(x, m)| (x - m).abs() < 1e-7), "{name}: {found:?}");
        }
    }

    #[test]
    fn memory_and_the_true_hessian_pay() {
        let curvatures = [1.0, 1e1, 1e2, 1e3];
        let start = || vec![5.0; 4];
        let f = |x: &[f64]| bowl(&curvatures, x);
        let steps = |history| minimize(start(), &Options { history, ..OPTIONS }, |_| (), f).iterations;
        assert!(steps(10) * 3 < steps(0), "{} against {} of steepest descent", steps(10), steps(0));
        let newton = |v: &mut [f64]| v.iter_mut().zip(curvatures).for_each(|(v, a)| *v /= a);
        let found = minimize(start(), &OPTIONS, newton, f);
        assert!(found.converged && found.iterations == 1, "{found:?}");
    }

    #[test]
    fn ends_where_there_is_nothing_to_find() {
        let flat = minimize(vec![1.0], &OPTIONS, |_| (), |_| (0.0, vec![0.0]));
        assert!(flat.converged && flat.iterations == 0);
        let unbounded = minimize(vec![1.0], &OPTIONS, |_| (), |x| (x[0], vec![1.0]));
        assert!(!unbounded.converged);
        let broken = minimize(vec![1.0], &OPTIONS, |_| (), |_| (f64::NAN, vec![f64::NAN]));
        assert!(!broken.converged && broken.iterations == 0);
        let wrong_sign = minimize(vec![1.0], &OPTIONS, |_| (), |x| (x[0] * x[0], vec![-2.0 * x[0]]));
        assert!(!wrong_sign.converged);
    }
}
