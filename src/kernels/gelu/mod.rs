//! GELU, exact: y = x Φ(x), with Φ the normal distribution function (Hendrycks and Gimpel, 2016).

mod cpu;
mod reference;

use super::{Buffer, check_len, launch};

/// x Φ(x).
pub fn forward(x: &Buffer) -> Buffer {
    let mut y = x.like(x.len());
    launch!("gelu", [x], [y] => forward(x, y));
    y
}

/// (Φ(x) + x φ(x)) dy.
#[track_caller]
pub fn backward(x: &Buffer, dy: &Buffer) -> Buffer {
    check_len("gelu", "dy", dy, x.len());
    let mut dx = x.like(x.len());
    launch!("gelu", [x, dy], [dx] => backward(x, dy, dx));
    dx
}

/// GELU(x), and its gradient in the place of `dy`: [`forward`] and [`backward`] in one pass.
#[track_caller]
pub fn forward_and_backward(x: &Buffer, mut dy: Buffer) -> (Buffer, Buffer) {
    check_len("gelu", "dy", &dy, x.len());
    let mut y = x.like(x.len());
    launch!("gelu", [x], [y, dy] => forward_and_backward(x, y, dy));
    (y, dy)
}
