//! `stop-mim report`: everything on one page that needs nothing but itself, tables in a Markdown file, and what is broken said.

mod common;

use common::{SMALL, Scratch, contains};
use stop_mim::experiments::{Cell, Mean, Outcome, Picture, Row, Table};
use stop_mim::lab;
use stop_mim::report::canvas::Canvas;

const SVG: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>";

/// An outcome with two rows, whose texts can be told apart.
fn outcome(name: &str) -> Outcome {
    let cell = |mean, half_width| Cell::Mean(Mean { mean, half_width, n: 3, decimals: 1 });
    let rows = vec![
        Row { label: format!("{name} & arm"), cells: vec![cell(53.125, Some(0.84)), Cell::Text("57.8".into())] },
        Row { label: "raw pixels".into(), cells: vec![cell(41.44, None), Cell::Text("–".into())] },
    ];
    let picture = |file: &str| Picture { file: file.into(), caption: format!("caption of {file} in {name}") };
    Outcome {
        name: name.into(),
        title: format!("title of {name}"),
        question: format!("question of {name}?"),
        reference: "Table 7".into(),
        paper_found: format!("found by the paper on {name}"),
        size: "quick".into(),
        data: "shapes".into(),
        seeds: 3,
        steps: 521,
        table: Table { columns: ["arm", "top-1", "the paper"].map(str::to_owned).into(), rows },
        statement: format!("No difference in {name}: 0.1 ± 0.6."),
        pictures: vec![picture("a.svg"), picture("b.png")],
        command: format!("stop-mim experiment {name} --quick"),
        version: "0.1.0".into(),
        machine: "linux, 2 cores".into(),
    }
}

fn save(scratch: &Scratch, folder: &str, outcome: &Outcome) {
    let path = scratch.path(format!("runs/experiments/{folder}"));
    std::fs::create_dir_all(&path).unwrap();
    outcome.save(&path).unwrap();
    std::fs::write(path.join("a.svg"), SVG).unwrap();
    Canvas::new(3, 2, [1, 2, 3]).save_png(path.join("b.png")).unwrap();
}

/// What the page shows between its tags, entities replaced, a line for each element.
fn shown(page: &str) -> String {
    let texts: Vec<&str> = page.split('<').skip(1).filter_map(|tag| Some(tag.split_once('>')?.1)).collect();
    let text = texts.join("\n").replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    text.replace("&#39;", "'").replace("&amp;", "&")
}

fn page(scratch: &Scratch, name: &str) -> String {
    String::from_utf8(scratch.read(name)).unwrap()
}

#[test]
fn the_page_holds_all_results_statements_and_runs_and_needs_no_other_file() {
    let scratch = Scratch::new();
    scratch.succeeds(&format!("{SMALL} --method stop --steps 2 --batch 4 --name a-run"));
    for name in ["which-tokens", "sigma"] {
        save(&scratch, name, &outcome(name));
    }
    let printed = scratch.says("report");
    contains(&printed, &["report.html", "comparisons pass"]);
    assert!(!printed.contains("warning"), "{printed}");
    let page = page(&scratch, "report.html");
    let text = shown(&page);
    for name in ["which-tokens", "sigma"] {
        let Outcome { title, question, paper_found, statement, command, pictures, .. } = outcome(name);
        contains(&text, &[&title, &question, &paper_found, &statement, &command, "521", "linux, 2 cores"]);
        pictures.iter().for_each(|picture| contains(&text, &[&picture.caption]));
        contains(&text, &[&format!("{name}\n\n{statement}\n\nTable 7\n\nquick\n\nshapes\n\n3\n"), "Table 7\n"]);
        contains(&text, &[&format!("{name} & arm\n\n53.1 ± 0.8\n\n57.8\n"), "raw pixels\n\n41.4\n\n–\n"]);
        // Under its heading what it shows stands first.
        let (_, section) = page.split_once(&format!("<h3 id=\"{name}\">")).unwrap();
        let (_, after) = section.split_once("</h3>\n").unwrap();
        assert!(after.starts_with(&format!("<p class=\"statement\">{statement}</p>")), "{name}");
    }
    let mut statements: Vec<String> = lab::statements().iter().flat_map(|test| test()).map(|f| f.statement).collect();
    statements.dedup();
    assert!(statements.len() > 30);
    let rows = page.split_once("id=\"statements\"").unwrap().1;
    let rows = rows.split_once("</table>").unwrap().0;
    assert_eq!(rows.matches("<th scope=\"row\">").count(), statements.len());
    contains(&text, &statements.iter().map(String::as_str).collect::<Vec<_>>());
    contains(
        &page,
        &["alt=\"curves of the run a-run\"", "alt=\"predictions of", "alt=\"positions of", "alt=\"masks of"],
    );
    assert_eq!(page.matches("src=\"data:image/svg+xml;base64,").count(), 3);
    assert_eq!(page.matches("src=\"data:image/png;base64,").count(), 5);
    assert_eq!(page.matches("src=").count(), 8);
    assert!(
        !page.contains("<script") && !page.contains("http:") && !page.contains("https:") && !page.contains("href=\"r")
    );
}

/// Does something to an outcome.
type Injure = fn(&mut Outcome);

#[test]
fn what_is_broken_or_missing_is_said_on_the_page_and_on_standard_error() {
    let scratch = Scratch::new();
    save(&scratch, "good", &outcome("good"));
    let broken: [(&str, Injure, &str); 2] = [
        ("ragged", |o| drop(o.table.rows[1].cells.pop()), "the row 'raw pixels' has 2 cells for 3 columns"),
        (
            "absurd",
            |o| o.table.rows[0].cells[0] = Cell::Mean(Mean { mean: 1.0, half_width: None, n: 1, decimals: 1 << 40 }),
            "more than 17 decimals",
        ),
    ];
    let mut words = vec!["interrupted has no result yet", "result.json: no result of an experiment of this version"];
    for (name, injure, said) in broken {
        let mut outcome = outcome(name);
        injure(&mut outcome);
        save(&scratch, name, &outcome);
        words.push(said);
    }
    std::fs::create_dir(scratch.path("runs/experiments/interrupted")).unwrap();
    scratch.write("runs/experiments/cut/result.json", "{\"name\": \"cut\", ");
    scratch.write("runs/experiments/bytes/result.json", b"\xff\xfe");
    std::fs::create_dir_all(scratch.path("runs/experiments/odd/result.json")).unwrap();
    words.push("is a folder, not a file");
    // Pictures that are none, that lie outside, that are too large.
    let mut odd = outcome("pictures");
    let files =
        ["../good/b.png", "/etc/hostname", "gone.png", "text.svg", "cut.png", "large.png", "folder.png", "a.svg"];
    odd.pictures = files.map(|file| Picture { file: file.into(), caption: "<i>\"".into() }).into();
    odd.title = "\"><script>".into();
    save(&scratch, "pictures", &odd);
    scratch.write("runs/experiments/pictures/text.svg", "no picture");
    scratch.write("runs/experiments/pictures/cut.png", b"\x89PNG\r\n\x1a\n");
    std::fs::create_dir(scratch.path("runs/experiments/pictures/folder.png")).unwrap();
    let large = std::fs::File::create(scratch.path("runs/experiments/pictures/large.png")).unwrap();
    large.set_len((8 << 20) + 1).unwrap();
    scratch.write("runs/a\"<b>/curves.svg", "no picture");
    let files =
        ["../good/b.png is not a name of a file", "/etc/hostname is not a name of a file", "gone.png is missing"];
    words.extend(files);
    words.extend([
        "text.svg is neither PNG nor SVG",
        "cut.png has no end",
        "large.png is not shown: it has more than 8 MiB",
    ]);
    words.extend(["folder.png is not a file", "a\"<b>: the picture curves.svg is neither"]);

    let said = scratch.says("report --out Page.HTML");
    contains(&said, &words);
    let page = page(&scratch, "Page.HTML");
    let text = shown(&page);
    contains(&text, &words);
    contains(&text, &["title of good", "\"><script>", "It would show: <i>\""]);
    assert!(!page.contains("<script") && !page.contains("<i>") && !page.contains("<b>"));
    assert_eq!(page.matches("src=\"data:").count(), 3, "two of the good, one of the odd");
}

#[test]
fn tables_in_markdown_are_made_anew_and_nothing_else() {
    let scratch = Scratch::new();
    save(&scratch, "sigma", &outcome("sigma"));
    let around = ["# Mine\r\n<!-- other -->\n<!-- experiment: sigma -->\n", "<!-- end -->\n\ttail, no newline"];
    scratch.write("notes.md", around.concat());
    let printed = scratch.succeeds("report --markdown notes.md");
    contains(&printed, &["notes.md"]);
    let made = "
No difference in sigma: 0.1 ± 0.6.

| arm | top-1 | the paper |
|---|---:|---:|
| sigma & arm | 53.1 ± 0.8 | 57.8 |
| raw pixels | 41.4 | – |

`stop-mim experiment sigma --quick`; size: quick; images: shapes; seeds: 3; steps of a run: 521; machine: linux, 2 cores; \
                version: 0.1.0.

";
    assert_eq!(page(&scratch, "notes.md"), around.join(made));
    scratch.succeeds("report --markdown notes.md");
    assert_eq!(page(&scratch, "notes.md"), around.join(made), "again: the same");
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_written() {
    let scratch = Scratch::new();
    save(&scratch, "sigma", &outcome("sigma"));
    scratch.write("runs/experiments/cut/result.json", "{");
    std::fs::create_dir(scratch.path("runs/experiments/empty")).unwrap();
    for (text, words) in [
        ("a\n<!-- experiment: sigma -->\n", "notes.md: line 2: the marker of 'sigma' has no end"),
        (
            "<!-- experiment: sigma -->\n<!-- end -->\n<!-- experiment: who -->\n<!-- end -->\n",
            "line 3: no experiment 'who'",
        ),
        ("<!-- experiment: cut -->\n<!-- end -->\n", "line 1: the result of 'cut' cannot be used"),
        ("<!-- experiment: empty -->\n<!-- end -->\n", "line 1: 'empty' has no result yet"),
        ("no marker\n", "has no place for a table"),
    ] {
        scratch.write("notes.md", text);
        scratch.refuses("report --markdown notes.md", &[words]);
        assert_eq!(page(&scratch, "notes.md"), text);
    }
    scratch.write("notes.md", b"\xff");
    scratch.refuses("report --markdown notes.md", &["cannot read notes.md"]);
    scratch.refuses("report --markdown runs/experiments", &["experiments: is a folder"]);
    scratch.refuses("report --markdown gone.md", &["cannot read gone.md"]);
    scratch.refuses("report gone", &["cannot read gone"]);
    scratch.refuses("report --runs gone", &["cannot read gone"]);
    scratch.refuses("report --out notes.md", &["ends in .html"]);
    scratch.refuses("report --out gone/a.html", &["cannot write gone/a.html"]);
    assert_eq!(scratch.entries(), 2, "the experiments and the notes");
}
