//! How the values of flags are read, and which flag is meant by the setting that an error of the library names.

use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::kernels::Precision;
use crate::methods::stop::TokenForm;
use crate::nn::LinearInit;
use crate::train::RunConfig;
use crate::vit::Preset;
use crate::{Error, Result};

/// What a setting of the library is called on the command line: for [`Error::renamed`].
pub fn flag(setting: &str) -> Option<&'static str> {
    Some(match setting {
        "BadImages::Skip" => "leave out --strict",
        "EncoderConfig" => "--preset, --image-size, --patch, --dim, --depth",
        "Fit::Partial" => "--partial",
        "Method::Mae" => "--method mae",
        "RunFolder::create" => "without --resume",
        "RunFolder::open" => "stop-mim pretrain --resume",
        "batch" => "--batch",
        "data" => "--data",
        "epochs" => "--epochs",
        "heads" => "--heads N",
        "init" => "--init",
        "interpolate_positions" => "--interpolate-positions",
        "lr" => "--lr",
        "precision" => "--precision",
        "prefix" => "--prefix",
        "sizes_of" => "probe and features without --preset",
        "steps" => "--steps",
        "warmup" => "--warmup",
        _ => return None,
    })
}

/// A number, with what is wrong otherwise.
fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("'{text}' is not a number"))
}

/// Numbers with commas between; `like` is an example of them.
fn numbers<T: FromStr, const N: usize>(text: &str, like: &str) -> Result<[T; N], String> {
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
    let fine = |n: &usize| (1..=RunConfig::MOST_STEPS).contains(&(*n as u64));
    text.parse().ok().filter(fine).ok_or(format!("'{text}' is not a whole number from 1 to 10^12"))
}

/// That a flag's number is not negative.
///
/// # Errors
/// When it is, or is not finite.
pub fn not_negative(flag: &str, x: f64) -> Result<f64> {
    if x >= 0.0 && x.is_finite() {
        return Ok(x);
    }
    Err(Error::config(format!("{flag} is {x}"), "choose a number that is not negative"))
}

/// Refuses the first of these flags that was given: they mean something to other methods only.
///
/// # Errors
/// When one was given.
pub fn refuse(given: &[(bool, &str)], belongs_to: &str) -> Result<()> {
    let Some((_, flag)) = given.iter().find(|(given, _)| *given) else { return Ok(()) };
    let hint = format!("leave it out, or choose --method {belongs_to}");
    Err(Error::config(format!("{flag} means nothing to this method"), hint))
}

/// One of these values of the library by its name, with what the help says of each.
fn choice<T: Copy + Send + Sync + 'static>(
    name: fn(T) -> &'static str,
    values: &'static [(T, &'static str)],
) -> impl TypedValueParser<Value = T> {
    let possible = values.iter().map(|&(value, about)| PossibleValue::new(name(value)).help(about));
    let value = move |chosen: String| values.iter().find(|(value, _)| name(*value) == chosen);
    PossibleValuesParser::new(possible).map(move |chosen| value(chosen).expect("a possible value").0)
}

pub fn preset() -> impl TypedValueParser<Value = Preset> {
    const PRESETS: [(Preset, &str); Preset::ALL.len()] = [
        (Preset::Toy, "For 32 × 32 images on a CPU; see docs/experiments.md for how it was found"),
        (Preset::VitT16, "ViT-T/16, with the predictor of ViT-B (the paper trains none)"),
        (Preset::VitS16, "ViT-S/16, with the predictor of ViT-B (the paper trains none)"),
        (Preset::VitB16, "ViT-B/16: Tables 9 and 10"),
        (Preset::VitL16, "ViT-L/16: Table 11"),
        (Preset::VitH14, "ViT-H/14: Table 12"),
        (Preset::VitG16, "ViT-g/16 of I-JEPA, with its official predictor (the paper trains none)"),
    ];
    choice(Preset::name, &PRESETS)
}

pub fn linear_init() -> impl TypedValueParser<Value = LinearInit> {
    const INITS: [(LinearInit, &str); LinearInit::ALL.len()] = [
        (LinearInit::Normal, "N(0, 0.02²): I-JEPA and StoP"),
        (LinearInit::Xavier, "Uniform with variance 2 / (inputs + outputs) (Glorot and Bengio, 2010): MAE"),
    ];
    choice(LinearInit::name, &INITS)
}

pub fn token_form() -> impl TypedValueParser<Value = TokenForm> {
    const FORMS: [(TokenForm, &str); TokenForm::ALL.len()] = [
        (TokenForm::Official, "As the official code: m_j = A n_j + ψ_j + b, c = A s_x + ψ + b, with b the bias of A"),
        (TokenForm::Paper, "As the paper's Eq. 6: m_j = A n_j + ψ_j + m, c = A s_x + ψ, with m the mask token"),
        (TokenForm::PositionsOnly, "The official code without noise: m_j = ψ_j alone, not I-JEPA's ψ_j + m"),
    ];
    choice(TokenForm::name, &FORMS)
}

pub fn precision() -> impl TypedValueParser<Value = Precision> {
    const PRECISIONS: [(Precision, &str); Precision::ALL.len()] = [
        (Precision::F32, "Nothing is rounded"),
        (Precision::Bf16, "bfloat16: 8 significant bits instead of 24, sums in f32. Needs AVX512-BF16"),
    ];
    choice(Precision::name, &PRECISIONS)
}
