//! Tables 4 and 13: trained on some images, probed on others, for other labels. At the quick size all images are `shapes`, trained
//! on without labels and probed for their number and for the distance of the nearest, as the paper's CLEVR/Count and CLEVR/Dist.

use std::sync::Arc;

use super::metrics::{Metric, Probe};
use super::{Arm, Column, Conclusion, Experiment, Found, Size};
use crate::Result;
use crate::methods::MethodOptions;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "transfer",
    title: "Transfer to other images and labels",
    question: "Do StoP's features serve other tasks better than I-JEPA's: how many things there are, how far the nearest is, other \
        classes? A difference is one of the last block, with all labels, whose interval over seeds leaves out 0.",
    reference: "Tables 4 and 13",
    paper_found: "ViT-B/16: StoP is above I-JEPA by 12.0 points on CIFAR-100, by 1.5 in counting, by 0.6 in distance.",
    arms,
    metrics: |size| probes(size).into_iter().map(|probe| Arc::new(probe) as Arc<dyn Metric>).collect(),
    conclude,
};

const BASE: &str = "I-JEPA";

fn arms(size: &Size) -> Result<Vec<Arm>> {
    Ok(vec![
        Arm::new(BASE, size.ijepa()?),
        Arm::new("StoP", size.stop(0.25)?),
        Arm::new("MAE", size.run("mae", &MethodOptions::default())?),
    ])
}

/// A probe for each of the other images; of those that are drawn, for each of their labels.
fn probes(size: &Size) -> Vec<Probe> {
    let drawn = size.labels.starts_with("shapes:");
    let mut probes: Vec<Probe> = Vec::new();
    for labels in size.others.iter().chain(drawn.then_some(&size.labels)) {
        // Two of one kind, as folder:A and folder:B, have names of their own.
        let same = probes.iter().filter(|probe| task(&probe.labels) == task(labels)).count();
        let name = if same == 0 { task(labels).to_owned() } else { format!("{} {}", task(labels), same + 1) };
        probes.push(Probe { name, labels: labels.clone(), images: size.probe_images });
    }
    probes
}

/// What is asked of these images: of `shapes:count`, count; of `cifar100:DIR`, cifar100.
fn task(labels: &str) -> &str {
    match labels.split_once(':') {
        Some(("shapes", task)) => task,
        Some((scheme, _)) => scheme,
        None => labels,
    }
}

fn conclude(found: &Found) -> Result<Conclusion> {
    let tasks: Vec<String> = probes(found.size).into_iter().map(|probe| probe.name).collect();
    let names: Vec<[String; 2]> = tasks.iter().map(|task| [format!("{task}, %"), format!("{task}, last")]).collect();
    let mut columns = Vec::new();
    for (task, [heading, metric]) in tasks.iter().zip(&names) {
        columns.push(Column::Of { heading, metric, decimals: 1 });
        columns.push(Column::Against { arm: BASE, metric, decimals: 1 });
        let figures: &[(&str, &str)] = match &task[..] {
            "count" => &[(BASE, "82.2"), ("StoP", "83.7"), ("MAE", "86.6")],
            "distance" => &[(BASE, "70.7"), ("StoP", "71.3"), ("MAE", "70.8")],
            "cifar100" => &[(BASE, "69.2"), ("StoP", "81.2"), ("MAE", "68.1")],
            _ => &[],
        };
        columns.push(Column::Paper { heading: "paper", figures });
    }
    let verdicts: Vec<String> =
        tasks.iter().zip(&names).map(|(task, [_, metric])| found.verdict(&["StoP"], BASE, (metric, task))).collect();
    let statement = super::found::sentence(&verdicts.join("; "));
    Ok(Conclusion { table: found.table(&columns), statement, figures: vec![] })
}
