//! Losses, as means: over all elements, or over rows. Each gives one element; its gradient `dy` is one element too.

mod cpu;
mod reference;

use super::{Buffer, IndexBuffer, check_len, launch, softmax};

/// The mean of d²/2β where |d| < β and |d| − β/2 elsewhere, d = x − y.
#[track_caller]
pub fn smooth_l1(x: &Buffer, y: &Buffer, beta: f64) -> Buffer {
    check_len("smooth_l1", "target", y, x.len());
    let mut loss = x.like(1);
    launch!("smooth_l1", [x, y], [loss] => smooth_l1(x, y, beta, loss));
    loss
}

/// clamp((x − y)/β, −1, 1) dy / elements: the gradient of [`smooth_l1`] with respect to x.
#[track_caller]
pub fn smooth_l1_backward(x: &Buffer, y: &Buffer, beta: f64, dy: &Buffer) -> Buffer {
    check_len("smooth_l1", "target", y, x.len());
    check_len("smooth_l1", "dy", dy, 1);
    let mut dx = x.like(x.len());
    launch!("smooth_l1", [x, y, dy], [dx] => smooth_l1_backward(x, y, beta, dy, dx));
    dx
}

/// The mean of (x − y)².
#[track_caller]
pub fn squared_error(x: &Buffer, y: &Buffer) -> Buffer {
    check_len("mse", "target", y, x.len());
    let mut loss = x.like(1);
    launch!("mse", [x, y], [loss] => squared_error(x, y, loss));
    loss
}

/// 2 (x − y) dy / elements: the gradient of [`squared_error`] with respect to x.
#[track_caller]
pub fn squared_error_backward(x: &Buffer, y: &Buffer, dy: &Buffer) -> Buffer {
    check_len("mse", "target", y, x.len());
    check_len("mse", "dy", dy, 1);
    let mut dx = x.like(x.len());
    launch!("mse", [x, y, dy], [dx] => squared_error_backward(x, y, dy, dx));
    dx
}

/// The mean over rows of `cols` of −ln softmax(x)\[class\].
#[track_caller]
pub fn cross_entropy(cols: usize, x: &Buffer, classes: &IndexBuffer) -> Buffer {
    check_classes(cols, x, classes);
    let mut loss = x.like(1);
    launch!("cross_entropy", [x, classes], [loss] => cross_entropy(cols, x, classes, loss));
    loss
}

/// (softmax(x) − onehot(class)) dy / rows: the gradient of [`cross_entropy`] with respect to x.
#[track_caller]
pub fn cross_entropy_backward(cols: usize, x: &Buffer, classes: &IndexBuffer, dy: &Buffer) -> Buffer {
    check_classes(cols, x, classes);
    check_len("cross_entropy", "dy", dy, 1);
    let mut dx = softmax::forward(cols, x);
    launch!("cross_entropy", [classes, dy], [dx] => cross_entropy_backward(cols, classes, dy, dx));
    dx
}

#[track_caller]
fn check_classes(cols: usize, x: &Buffer, classes: &IndexBuffer) {
    check_len("cross_entropy", "logits", x, classes.len() * cols);
    if let Some(max) = classes.max().filter(|max| *max as usize >= cols) {
        panic!("cross_entropy: class {max} of {cols}");
    }
}
