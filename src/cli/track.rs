//! `stop-mim track`

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::encoder::{EncoderArgs, source};
use super::options::DeviceArgs;
use super::progress::Progress;
use super::signals;
use crate::data::Normalization;
use crate::data::video::{self, Clip, Mask, indexed};
use crate::eval::tracking::{
    EncoderFeatures, ObjectScore, PatchFeatures, PixelFeatures, TrackConfig, TrackReport, check_clips, track_watched,
    usual_frame_size,
};
use crate::report::table::Layout;
use crate::report::tracks::track_strip;
use crate::train::weights::{Preprocessing, PretrainedEncoder, fresh_encoder};
use crate::vit::EncoderConfig;
use crate::{Error, Result, files};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Videos with a mask of every frame: clips, embedded ones of shapes that move and hide one another; or davis:DIR, a folder
    /// in the layout of DAVIS 2017.
    #[arg(long, value_name = "VIDEOS", default_value = "clips")]
    data: String,
    /// Only the first N videos [default: all of a folder; 24 of the embedded ones, of which there is no end].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    clips: Option<u16>,
    /// Short side of the frames in pixels, rounded down to whole patches; embedded clips are drawn at that size [default: 480,
    /// the official one, for encoders of images of 224 pixels and more; for smaller ones twice their images].
    #[arg(long, value_name = "PIXELS")]
    frame_size: Option<usize>,
    /// Frames before each that labels are taken from, beside the first of the video.
    #[arg(long, value_name = "N", default_value_t = TrackConfig::default().last_frames)]
    last_frames: usize,
    /// How many patches away, along rows and columns, labels are taken from; 0: from anywhere.
    #[arg(long, value_name = "PATCHES", default_value_t = TrackConfig::default().radius)]
    radius: usize,
    /// Of how many most similar patches a patch takes its label.
    #[arg(long, value_name = "K", default_value_t = TrackConfig::default().top_k)]
    top_k: usize,
    /// What their cosines are divided by before the softmax.
    #[arg(long, value_name = "T", default_value_t = TrackConfig::default().temperature)]
    temperature: f64,
    /// Write into this folder the masks that were found (DIR/trained, DIR/untrained, DIR/pixels, each as DAVIS's evaluation reads
    /// results), the scores of every object (scores.csv), and a picture of each video (strips/).
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let found = args.encoder.load()?;
    let PretrainedEncoder { encoder, params } = &found.model.to_device(device);
    let EncoderConfig { image_size, patch_size, channels, .. } = *encoder.config();
    if channels != 3 {
        let problem = format!("an encoder of images of {channels} channels, and videos of three");
        return Err(Error::config(problem, "give an encoder of color images"));
    }
    let frame_size = args.frame_size.unwrap_or_else(|| usual_frame_size(image_size));
    let config = TrackConfig {
        last_frames: args.last_frames,
        radius: args.radius,
        top_k: args.top_k,
        temperature: args.temperature,
        frame_size: Some(frame_size),
    };
    config.validate()?;
    let clips = video::open(&args.data, frame_size, args.clips.map(usize::from))?;
    check_clips(&clips)?;
    let out = args.out.as_deref().map(Out::new).transpose()?;
    signals::listen();
    let normalization = found.preprocessing.normalization().unwrap_or(Normalization::IMAGENET);
    let frames: usize = clips.iter().map(|clip| clip.len()).sum();
    println!("{}, on {}: {} videos of {frames} frames", found.what, args.data, clips.len());
    let Normalization { mean, std } = &normalization;
    // Of a checkpoint that says nothing its images are not at hand.
    let said =
        if found.preprocessing == Preprocessing::Images { &Preprocessing::ImageNet } else { &found.preprocessing };
    println!("frames are normalized with mean {mean:?}, std {std:?}: {}", source(said));

    let fresh = fresh_encoder(encoder.config(), found.linear_init, found.seed)?;
    let fresh = (fresh.0, fresh.1.to_device(device));
    let trained = EncoderFeatures { encoder, params, normalization: &normalization };
    let untrained = EncoderFeatures { encoder: &fresh.0, params: &fresh.1, normalization: &normalization };
    let pixels = PixelFeatures { patch_size, normalization: &normalization };
    let rows: [(&str, &str, &dyn PatchFeatures); 3] = [
        ("trained", "trained encoder", &trained),
        ("untrained", "untrained encoder", &untrained),
        ("pixels", "raw pixels", &pixels),
    ];
    let header = ["features", "J", "F", "J&F"];
    let widest = rows.map(|(_, name, _)| [name, "100.0 %", "100.0 %", "100.0 %"].map(str::to_owned).to_vec());
    let layout = Layout::of(&header, &widest);
    print!("{}", layout.header(&header));
    let mut csv = "features,video,object,J,F\n".to_owned();
    for (folder, name, features) in rows {
        let progress = Progress::beside_results(frames, "frames");
        let tracked = track_watched(features, &clips, &config, &signals::check, &mut |frame| {
            progress.advance(1, || format!("{name}: {}", frame.clip.name()));
            out.as_ref().map_or(Ok(()), |out| out.write(folder, frame.clip, frame.index, frame.mask))
        });
        progress.clear();
        let TrackReport { j, f, j_and_f, objects } = match tracked {
            Err(Error::Interrupted) => {
                println!("stopped before the row of the {name} was found");
                return Err(Error::Interrupted);
            }
            tracked => tracked?,
        };
        print!("{}", layout.row(&[name.to_owned(), percent(j), percent(f), percent(j_and_f)]));
        for ObjectScore { clip, object, j, f } in &objects {
            csv += &format!("{folder},\"{}\",{object},{j},{f}\n", clip.replace('"', "\"\""));
        }
    }
    println!();
    if let Some(out) = out {
        files::write_whole(&out.folder.join("scores.csv"), csv.as_bytes())?;
        for clip in &clips {
            signals::check()?;
            out.strip(&**clip, &rows.map(|(folder, ..)| folder))?;
        }
        println!("masks, scores and pictures: {}", out.folder.display());
    }
    Ok(())
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A folder for what was found.
struct Out {
    folder: PathBuf,
}

/// Frames in a picture of a video.
const SHOWN: usize = 8;

impl Out {
    /// Makes the folder, and looks whether files can be written to it: to be known before hours of work.
    fn new(folder: &Path) -> Result<Self> {
        make(folder)?;
        files::check_writable(&folder.join("scores.csv"))?;
        make(&folder.join("strips"))?;
        Ok(Out { folder: folder.to_owned() })
    }

    /// Where the mask of a frame lies: where the evaluation of DAVIS looks for it.
    fn mask(&self, features: &str, clip: &dyn Clip, index: usize) -> PathBuf {
        self.folder.join(features).join(clip.name()).join(format!("{}.png", clip.file_stem(index)))
    }

    fn write(&self, features: &str, clip: &dyn Clip, index: usize, mask: &Mask) -> Result<()> {
        let path = self.mask(features, clip, index);
        if index == 0 {
            make(path.parent().unwrap_or(&self.folder))?;
        }
        indexed::write(&path, mask)
    }

    /// Draws some frames of a clip: as they are, with the true masks, and with those that were found, which are read again.
    fn strip(&self, clip: &dyn Clip, features: &[&str]) -> Result<()> {
        let last = clip.len() - 1;
        let shown = SHOWN.min(clip.len());
        let indices: Vec<usize> = (0..shown).map(|k| k * last / (shown - 1).max(1)).collect();
        let each = |mask: &dyn Fn(usize) -> Result<Mask>| indices.iter().map(|i| mask(*i)).collect::<Result<Vec<_>>>();
        let mut masks = vec![each(&|i| clip.mask(i))?];
        for features in features {
            masks.push(each(&|i| indexed::read(&self.mask(features, clip, i)))?);
        }
        let frames = indices.iter().map(|i| clip.frame(*i)).collect::<Result<Vec<_>>>()?;
        track_strip(&frames, &masks).save_png(self.folder.join("strips").join(format!("{}.png", clip.name())))
    }
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))
}
