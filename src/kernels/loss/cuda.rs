use super::Regression;
use crate::kernels::cuda::{Block, Gpu, Grid, Launch, Source, View, ViewMut};
use crate::kernels::{Buffer, DType, Device, Real};

const SOURCE: Source = Source { name: "loss", text: include_str!("loss.cu") };

/// How loss.cu calls a loss, and its β.
fn of<T: Real>(of: Regression) -> (u32, T) {
    match of {
        Regression::SmoothL1 { beta } => (0, T::from_f64(beta)),
        Regression::Squared => (1, T::ONE),
    }
}

/// The mean over `n` of what costs together `parts` numbers, which `fill` writes.
fn mean<T: Real>(gpu: &std::sync::Arc<Gpu>, parts: usize, n: usize, loss: ViewMut<'_, T>, fill: impl FnOnce(&Buffer)) {
    let mut each = Buffer::unspecified(parts, DType::F64, Device::Cuda(gpu.ordinal()));
    fill(&each);
    let (grid, block, shared) = (Grid(1, 1, 1), Block(1024, 1, 1), 32 * size_of::<f64>());
    let launch = Launch { grid, block, shared, ..Launch::over_elements(gpu, SOURCE, "mean", 1) };
    let each = each.view_mut::<f64>("loss");
    launch.run::<T>(&[&(parts as u64), &(n as u64), &each.pointer(), &loss.pointer()]);
}

pub(super) fn regression<T: Real>(loss: Regression, x: View<'_, T>, y: View<'_, T>, mean_loss: ViewMut<'_, T>) {
    let ((which, beta), n) = (of::<T>(loss), x.len());
    // Some elements for each thread, so that there are no more than a few thousand parts.
    let Grid(blocks, ..) = Launch::over_elements(x.gpu, SOURCE, "regression", n.div_ceil(8)).grid;
    mean(x.gpu, blocks as usize, n, mean_loss, |each| {
        let (grid, shared) = (Grid(blocks, 1, 1), 32 * size_of::<f64>());
        let launch = Launch { grid, shared, ..Launch::over_elements(x.gpu, SOURCE, "regression", n) };
        let each = each.view::<f64>("loss").pointer();
        launch.run::<T>(&[&which, &beta, &(n as u64), &x.pointer(), &y.pointer(), &each]);
    });
}

pub(super) fn regression_backward<T: Real>(
    loss: Regression,
    x: View<'_, T>,
    y: View<'_, T>,
    dy: View<'_, T>,
    dx: ViewMut<'_, T>,
) {
    let ((which, beta), n) = (of::<T>(loss), x.len());
    Launch::over_elements(dx.gpu, SOURCE, "regression_backward", n).run::<T>(&[
        &which,
        &beta,
        &(n as u64),
        &x.pointer(),
        &y.pointer(),
        &dy.pointer(),
        &dx.pointer(),
    ]);
}

pub(super) fn cross_entropy<T: Real>(cols: usize, x: View<'_, T>, classes: View<'_, u32>, loss: ViewMut<'_, T>) {
    let rows = classes.len();
    mean(x.gpu, rows, rows, loss, |each| {
        Launch::over_rows(x.gpu, SOURCE, "cross_entropy", rows).run::<T>(&[
            &(rows as u64),
            &(cols as u32),
            &x.pointer(),
            &classes.pointer(),
            &each.view::<f64>("loss").pointer(),
        ]);
    });
}

pub(super) fn cross_entropy_backward<T: Real>(cols: usize, classes: View<'_, u32>, dy: View<'_, T>, p: ViewMut<'_, T>) {
    let rows = classes.len();
    Launch::over_elements(p.gpu, SOURCE, "cross_entropy_backward", rows * cols).run::<T>(&[
        &(rows as u64),
        &(cols as u32),
        &classes.pointer(),
        &dy.pointer(),
        &p.pointer(),
    ]);
}
