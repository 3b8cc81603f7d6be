//! How the values of flags are read, and which flag is meant by the setting that an error of the library names.

use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::train::RunConfig;
use crate::{Error, Result};

/// What a setting of the library is called on the command line: for [`Error::renamed`].
pub fn flag(setting: &str) -> Option<&'static str> {
    Some(match setting {
        "BadImages::Skip" => "leave out --strict",
        "EncoderConfig" => "--preset, --image-size, --patch, --dim, --depth",
        "Fit::Partial" => "--partial",
        "MethodConfig::Mae" => "--method mae",
        "RunFolder::create" => "without --resume",
        "Size::quick" => "--quick",
        "RunFolder::open" => "stop-mim pretrain --resume",
        "batch" => "--batch",
        "context.scale" => "--context-scale",
        "data" => "--data",
        "epochs" => "--epochs",
        "frame_size" => "--frame-size",
        "heads" => "--heads N",
        "init" => "--init",
        "drop_path" => "--drop-path",
        "fine_tune" => "stop-mim finetune",
        "label_smoothing" => "--label-smoothing",
        "layer_decay" => "--layer-decay",
        "interpolate_positions" => "--interpolate-positions",
        "load_encoder" => "probe, features",
        "lr" => "--lr",
        "mask_unit" => "--mask-unit",
        "method" => "--method",
        "min_keep" => "--min-keep",
        "precision" => "--precision",
        "patch_std" => "--patch-std",
        "position_scale" => "--position-scale",
        "embed_std" => "--embed-std",
        "prefix" => "--prefix",
        "probe images" => "--probe-images",
        "sigma" => "--sigma-std",
        "temperature" => "--temperature",
        "tokens" => "--stop-tokens",
        "noise_on" => "--noise-on",
        "covariance" => "--covariance",
        "target.scale" => "--target-scale",
        "target_resolution" => "--target-resolution",
        "penalty" => "--penalty",
        "top_k" => "--top-k",
        "target_blocks" => "--target-blocks",
        "normalize_patches" => "--normalize-patches",
        "sizes_of" => "probe and features without --preset",
        "steps" => "--steps",
        "warmup" => "--warmup",
        _ => return None,
    })
}

/// Numbers with commas between; `like` is an example of them.
fn numbers<T: FromStr, const N: usize>(text: &str, like: &str) -> Result<[T; N], String> {
    let number = |text: &str| text.trim().parse().map_err(|_| format!("'{text}' is not a number"));
    let numbers: Vec<T> = text.split(',').map(number).collect::<Result<_, _>>()?;
    let count = if N == 2 { "two" } else { "three" };
    numbers.try_into().map_err(|_| format!("{count} numbers with commas between, as in {like}"))
}

/// Two numbers with a comma between.
pub fn pair(text: &str) -> Result<[f64; 2], String> {
    numbers(text, "0.15,0.2")
}

/// A number for each of red, green and blue.
pub fn colors(text: &str) -> Result<[f32; 3], String> {
    numbers(text, "0.485,0.456,0.406")
}

/// Two numbers above 0 with a comma between.
pub fn counts(text: &str) -> Result<[usize; 2], String> {
    let counts: [usize; 2] = numbers(text, "5000,1000")?;
    if counts.contains(&0) { Err("'0' is not a number above 0".to_owned()) } else { Ok(counts) }
}

/// A whole number from 1 to as many as a run has steps.
pub fn positive(text: &str) -> Result<usize, String> {
    let fine = |n: &usize| (1..=RunConfig::MAX_STEPS).contains(&(*n as u64));
    text.parse().ok().filter(fine).ok_or(format!("'{text}' is not a whole number from 1 to 10^12"))
}

/// Checks that the number of a flag is finite and not negative.
pub fn not_negative(flag: &str, x: f64) -> Result<f64> {
    let wrong = || Error::config(format!("{flag} is {x}"), "choose a number that is not negative");
    if x >= 0.0 && x.is_finite() { Ok(x) } else { Err(wrong()) }
}

/// Refuses the first of these flags that was given: they mean something to other methods only.
pub fn refuse(given: &[(bool, &str)], belongs_to: &str) -> Result<()> {
    let Some((_, flag)) = given.iter().find(|(given, _)| *given) else { return Ok(()) };
    let hint = format!("leave it out, or choose --method {belongs_to}");
    Err(Error::config(format!("{flag} means nothing to this method"), hint))
}

/// One of these values of the library by its name, with what the help says of each.
pub fn choice<T: Copy + Send + Sync + 'static>(
    values: &'static [T],
    name: fn(T) -> &'static str,
    about: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let about = move |value| about(value).trim().trim_end_matches('.');
    let possible = values.iter().map(|&value| PossibleValue::new(name(value)).help(about(value)));
    let value = move |chosen: String| *values.iter().find(|value| name(**value) == chosen).expect("a possible value");
    PossibleValuesParser::new(possible).map(value)
}
