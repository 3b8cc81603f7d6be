//! One HTML page that needs nothing but itself: pictures are in it, no script is, and it follows the reader's choice of
//! light or dark. What it shows is put together elsewhere; here it gets its form.
//!
//! All text is escaped. A picture is shown as an image and not as a part of the page, so that what an SVG from outside may
//! contain can neither run nor load anything; the page's own policy forbids both once more.

use std::collections::HashSet;
use std::fmt::Write;

use super::color::{CATEGORIES, Rgb, WHITE, mix};
use super::table::is_number;

/// A page: a title, what it is about, a list of contents, sections.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The heading of the page, and its title in the window.
    pub title: String,
    /// A sentence or two under the title.
    pub introduction: String,
    /// In the order in which they are read.
    pub sections: Vec<Section>,
}

/// A heading, what stands under it, and further headings below.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// The wanted end of a link to it: `which-tokens` for `report.html#which-tokens`. Made of letters, digits and hyphens,
    /// and unique, where it is not.
    pub name: String,
    /// What it is called.
    pub heading: String,
    /// From top to bottom.
    pub blocks: Vec<Block>,
    /// Sections within it, behind its blocks.
    pub parts: Vec<Section>,
}

/// What stands under a heading.
#[derive(Clone, Debug)]
pub enum Block {
    /// The sentence to remember, set off.
    Statement(String),
    /// Running text.
    Paragraph(String),
    /// What is missing or wrong.
    Warning(String),
    /// Names and what belongs to each.
    Facts(Vec<(String, String)>),
    /// What to type into a shell.
    Command(String),
    /// Numbers and words under headings.
    Table(Table),
    /// A picture and its caption.
    Figure(Figure),
}

/// A table. The first entry of a row names it; rows may be short.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// The headings of its columns.
    pub columns: Vec<String>,
    /// From top to bottom.
    pub rows: Vec<Vec<String>>,
}

/// A picture with words.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What is shown.
    pub picture: Picture,
    /// What takes its place for those who do not see it.
    pub alt: String,
    /// What stands under it.
    pub caption: String,
}

/// A PNG or SVG file.
#[derive(Clone, Debug)]
pub struct Picture {
    media_type: &'static str,
    bytes: Vec<u8>,
}

const SVG: &str = "image/svg+xml";

impl Picture {
    /// A picture from the bytes of its file. Looked at are its beginning and its end, so that a file of another kind, or one
    /// that was cut off, is not taken for a picture.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(bytes: Vec<u8>) -> Result<Self, &'static str> {
        const PNG: (&[u8], &[u8]) = (b"\x89PNG\r\n\x1a\n", b"IEND\xae\x42\x60\x82");
        const CUT: Result<Picture, &str> = Err("has no end: it was cut off");
        let text = bytes.trim_ascii();
        if bytes.starts_with(PNG.0) {
            return if bytes.ends_with(PNG.1) { Ok(Picture { media_type: "image/png", bytes }) } else { CUT };
        }
        if [&b"<svg"[..], b"<?xml"].iter().any(|start| text.starts_with(start)) {
            return if text.ends_with(b"</svg>") { Ok(Picture { media_type: SVG, bytes }) } else { CUT };
        }
        Err("is neither PNG nor SVG")
    }
}

impl Page {
    /// The page as the text of an HTML file, in UTF-8.
    pub fn html(&self) -> String {
        let mut written = Written::default();
        self.sections.iter().for_each(|section| written.section(section, 2));
        let Written { contents, body, .. } = written;
        let (title, introduction, style) = (escaped(&self.title), escaped(&self.introduction), style());
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
             <style>\n{style}</style>\n</head>\n<body>\n\
             <header>\n<h1>{title}</h1>\n<p>{introduction}</p>\n</header>\n\
             <nav aria-labelledby=\"contents\">\n<h2 id=\"contents\">Contents</h2>\n<ul>\n{contents}</ul>\n</nav>\n\
             <main>\n{body}</main>\n</body>\n</html>\n"
        )
    }
}

/// What is written so far.
#[derive(Default)]
struct Written {
    contents: String,
    body: String,
    ids: HashSet<String>,
}

impl Written {
    fn section(&mut self, section: &Section, level: usize) {
        let (id, heading, level) = (self.id(&section.name), escaped(&section.heading), level.min(6));
        self.contents += &format!("<li><a href=\"#{id}\">{heading}</a>");
        self.body += &format!("<section>\n<h{level} id=\"{id}\">{heading}</h{level}>\n");
        section.blocks.iter().for_each(|block| self.body += &html(block));
        if !section.parts.is_empty() {
            self.contents += "\n<ul>\n";
            section.parts.iter().for_each(|part| self.section(part, level + 1));
            self.contents += "</ul>\n";
        }
        self.contents += "</li>\n";
        self.body += "</section>\n";
    }

    /// `name` as the end of a link that no other section has.
    fn id(&mut self, name: &str) -> String {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let plain: String = name.chars().map(letter).collect();
        let plain = if plain.trim_matches('-').is_empty() || plain == "contents" { "section" } else { &plain };
        let numbered = (2..).map(|i| format!("{plain}-{i}"));
        let mut candidates = [plain.to_owned()].into_iter().chain(numbered);
        let id = candidates.find(|id| !self.ids.contains(id)).expect("there are more numbers than sections");
        self.ids.insert(id.clone());
        id
    }
}

fn html(block: &Block) -> String {
    match block {
        Block::Statement(text) => format!("<p class=\"statement\">{}</p>\n", escaped(text)),
        Block::Paragraph(text) => format!("<p>{}</p>\n", escaped(text)),
        Block::Warning(text) => format!("<p class=\"warning\"><strong>Note:</strong> {}</p>\n", escaped(text)),
        Block::Facts(facts) => {
            let fact = |(name, is): &(String, String)| format!("<dt>{}</dt><dd>{}</dd>\n", escaped(name), escaped(is));
            format!("<dl>\n{}</dl>\n", facts.iter().map(fact).collect::<String>())
        }
        Block::Command(line) => format!("<pre><code>{}</code></pre>\n", escaped(line)),
        Block::Table(table) => html_of_table(table),
        Block::Figure(Figure { picture: Picture { media_type, bytes }, alt, caption }) => {
            let (alt, caption, data) = (escaped(alt), escaped(caption), base64(bytes));
            // A drawing has text, which must stay large enough to be read.
            let class = if *media_type == SVG { "card wide" } else { "card" };
            format!(
                "<figure>\n<div class=\"{class}\" tabindex=\"0\">\
                 <img alt=\"{alt}\" src=\"data:{media_type};base64,{data}\"></div>\n\
                 <figcaption>{caption}</figcaption>\n</figure>\n"
            )
        }
    }
}

fn html_of_table(Table { caption, columns, rows }: &Table) -> String {
    let entry = |row: &[String], c: usize| row.get(c).map_or(String::new(), |text| escaped(text));
    let width = rows.iter().map(Vec::len).chain([columns.len()]).max().unwrap_or(0);
    // Numbers stand to the right, as in the terminal; sentences get the room that they need.
    let class = |c: usize| {
        let numbers = rows.iter().all(|row| row.get(c).is_none_or(|text| is_number(text)));
        let sentences = rows.iter().any(|row| row.get(c).is_some_and(|text| text.chars().count() > 24));
        match (c, numbers, sentences) {
            (0, ..) | (_, false, false) => "",
            (_, true, _) => " class=\"number\"",
            (_, false, true) => " class=\"words\"",
        }
    };
    let classes: Vec<&str> = (0..width).map(class).collect();
    let caption = escaped(caption);
    let mut html = format!(
        "<div class=\"scroll\" role=\"group\" aria-label=\"{caption}\" tabindex=\"0\">\n\
         <table>\n<caption><span>{caption}</span></caption>\n<thead>\n<tr>"
    );
    for (c, class) in classes.iter().enumerate() {
        html += &format!("<th scope=\"col\"{class}>{}</th>", entry(columns, c));
    }
    html += "</tr>\n</thead>\n<tbody>\n";
    for row in rows {
        html += &format!("<tr><th scope=\"row\">{}</th>", entry(row, 0));
        for (c, class) in classes.iter().enumerate().skip(1) {
            html += &format!("<td{class}>{}</td>", entry(row, c));
        }
        html += "</tr>\n";
    }
    html + "</tbody>\n</table>\n</div>\n"
}

/// `text` as it must stand in a page, within an element or in an attribute in double quotes. A control character, which
/// HTML does not allow, becomes the sign for what cannot be shown.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html += "&amp;",
            '<' => html += "&lt;",
            '>' => html += "&gt;",
            '"' => html += "&quot;",
            '\'' => html += "&#39;",
            '\n' | '\t' => html.push(c),
            c if c.is_control() => html.push('\u{FFFD}'),
            c => html.push(c),
        }
    }
    html
}

/// RFC 4648, section 4: three bytes become four of 64 letters; `=` fills up the last four.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | u32::from(*three.get(i).unwrap_or(&0)));
        for i in 0..4 {
            // Of n bytes there are n + 1 letters.
            let letter = LETTERS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// The colors of a page. Text has a contrast of 4.5 : 1 with the paper, or more.
struct Theme {
    paper: Rgb,
    ink: Rgb,
    /// Captions and names.
    muted: Rgb,
    /// Links, and the rule beside a statement.
    link: Rgb,
    /// The rule beside a warning.
    warning: Rgb,
    /// Rules of tables.
    line: Rgb,
}

const BLACK: Rgb = CATEGORIES[6];

fn light() -> Theme {
    let gray = |t| mix(BLACK, WHITE, t);
    let [ink, muted, line] = [0.12, 0.36, 0.82].map(gray);
    Theme { paper: WHITE, ink, muted, link: CATEGORIES[0], warning: CATEGORIES[1], line }
}

fn dark() -> Theme {
    let gray = |t| mix(BLACK, WHITE, t);
    let [paper, ink, muted, line] = [0.08, 0.9, 0.68, 0.28].map(gray);
    Theme { paper, ink, muted, link: CATEGORIES[4], warning: CATEGORIES[5], line }
}

impl Theme {
    /// As variables of CSS.
    fn variables(&self) -> String {
        let Theme { paper, ink, muted, link, warning, line } = self;
        let named = [("paper", paper), ("ink", ink), ("muted", muted), ("link", link), ("warning", warning)];
        named.into_iter().chain([("line", line)]).fold(String::new(), |mut css, (name, [r, g, b])| {
            let _ = write!(css, "--{name}:#{r:02x}{g:02x}{b:02x};"); // a string takes all that is written
            css
        })
    }
}

/// A picture keeps a white card, whatever the theme: it was drawn for paper. On a phone it is not shrunk until its text
/// cannot be read; it scrolls within its card, as a table does within its box. The page itself never scrolls sideways.
fn style() -> String {
    let (light, dark) = (light().variables(), dark().variables());
    let [r, g, b] = WHITE;
    format!(
        ":root{{color-scheme:light dark;{light}}}
@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}
*{{box-sizing:border-box}}
body{{margin:0 auto;max-width:64rem;padding:1rem;background:var(--paper);color:var(--ink);
font:1rem/1.55 system-ui,sans-serif;overflow-wrap:anywhere}}
h1,h2,h3{{line-height:1.25;margin:2.2em 0 .6em}}
h1{{margin-top:.5em;font-size:clamp(1.6rem,5vw,2.2rem)}}
h2{{border-bottom:1px solid var(--line);padding-bottom:.2em}}
nav h2{{margin-top:1em}}
p{{max-width:46rem}}
a{{color:var(--link)}}
:focus-visible{{outline:2px solid var(--link);outline-offset:2px}}
nav ul{{margin:0;padding-left:1.3rem}}
nav li{{margin:.35rem 0}}
.statement,.warning{{border-left:4px solid var(--link);padding:.3rem 0 .3rem .9rem;font-size:1.08rem}}
.warning{{border-color:var(--warning);font-size:1rem}}
.scroll,.card{{overflow-x:auto;max-width:100%}}
table{{border-collapse:collapse;font-size:.93rem;margin:.4rem 0}}
caption{{text-align:left;color:var(--muted);padding-bottom:.4rem}}
caption span{{display:inline-block;position:sticky;left:0;max-width:min(62rem,100vw - 2rem)}}
th,td{{text-align:left;vertical-align:top;padding:.35rem .7rem;border-bottom:1px solid var(--line);
overflow-wrap:break-word}}
thead th{{vertical-align:bottom}}
th{{font-weight:600}}
th:first-child{{position:sticky;left:0;background:var(--paper);min-width:6rem;max-width:min(20rem,38vw)}}
td{{max-width:32rem}}
.words{{min-width:12.5rem}}
.number{{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}}
thead .number{{white-space:normal}}
figure{{margin:1.5rem 0}}
.card{{background:rgb({r},{g},{b});border:1px solid var(--line);border-radius:.4rem;padding:.5rem}}
img{{display:block;height:auto;max-width:100%;margin:0 auto}}
.wide img{{min-width:36rem}}
figcaption{{color:var(--muted);font-size:.93rem;margin-top:.4rem;max-width:46rem}}
@media screen and (max-width:40rem){{.wide+figcaption::after{{content:\" (Scrolls sideways.)\"}}}}
dl{{display:grid;grid-template-columns:minmax(5rem,max-content) 1fr;gap:.2rem 1rem;font-size:.93rem}}
dt{{color:var(--muted)}}
dd{{margin:0}}
pre{{border:1px solid var(--line);border-radius:.4rem;padding:.6rem .8rem;font-size:.9rem;white-space:pre-wrap}}
@media print{{body{{max-width:none;padding:0}}.scroll,.card{{overflow:visible}}th:first-child,caption span{{position:static}}
th,td,td.number{{min-width:0;padding:.25rem .4rem;white-space:normal;overflow-wrap:anywhere}}table{{font-size:.8rem}}
figure,tr,.statement{{break-inside:avoid}}h2,h3,caption{{break-after:avoid}}.wide img,img{{min-width:0;max-height:23cm}}}}
"
    )
}

#[cfg(test)]
mod tests;
