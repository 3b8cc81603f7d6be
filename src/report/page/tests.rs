use super::*;

const HOSTILE: &str = "\"><script>alert('1')</script>&amp;\u{0}<!--";

/// The elements that have no end.
const VOID: [&str; 3] = ["meta", "img", "br"];

/// The tags of a page without `<` and `>`. Fails where one is not closed, or closes another.
fn tags(html: &str) -> Vec<&str> {
    let (mut tags, mut open, mut rest) = (Vec::new(), Vec::new(), html);
    while let Some((_, after)) = rest.split_once('<') {
        let mut quoted = false;
        let end = after.find(|c| {
            quoted ^= c == '"';
            c == '>' && !quoted
        });
        let (tag, behind) = after.split_at(end.expect("a tag ends"));
        let name = tag.split_whitespace().next().expect("a tag has a name");
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed");
        } else if !VOID.contains(&name) && name != "!DOCTYPE" {
            open.push(name);
        }
        tags.push(tag);
        rest = behind;
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    tags
}

fn png() -> Picture {
    Picture::new(b"\x89PNG\r\n\x1a\n...IEND\xae\x42\x60\x82".to_vec()).unwrap()
}

/// Every kind of block, with this text in every place for text.
fn page_with(text: &str) -> Page {
    let s = || text.to_owned();
    let table = Table { caption: s(), columns: vec![s(); 3], rows: vec![vec![s(); 3], vec![s()], vec![]] };
    let blocks = vec![
        Block::Statement(s()),
        Block::Paragraph(s()),
        Block::Warning(s()),
        Block::Facts(vec![(s(), s()), (s(), s())]),
        Block::Command(s()),
        Block::Table(table),
        Block::Figure(Figure { picture: png(), alt: s(), caption: s() }),
    ];
    let part = Section { name: s(), heading: s(), blocks, parts: vec![] };
    let section = Section { name: s(), heading: s(), blocks: vec![], parts: vec![part.clone(), part] };
    Page { title: s(), introduction: s(), sections: vec![section.clone(), section] }
}

#[test]
fn a_page_is_well_formed_and_text_stays_text() {
    let plain = page_with("a").html();
    let hostile = page_with(HOSTILE).html();
    let names = |html: &str| -> Vec<String> {
        tags(html).iter().map(|tag| tag.split_whitespace().next().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&plain), names(&hostile), "the same elements, whatever the text");
    assert!(!hostile.contains("<script") && !hostile.contains('\0'));
    let shown = escaped(HOSTILE);
    assert_eq!(shown, "&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;amp;\u{FFFD}&lt;!--");
    // Twice in the head; of two equal sections each the heading (also in the contents) and two parts with 21 texts.
    assert_eq!(hostile.matches(&shown).count(), 3 + 2 * (2 + 2 * (2 + 3 + 4 + 1 + 2 + 3 + 4 + 2)));
    assert_eq!(tags(&Page::default().html()).iter().filter(|tag| tag.starts_with("section")).count(), 0);
}

#[test]
fn every_link_leads_to_its_own_section() {
    let html = page_with(HOSTILE).html();
    let tags = tags(&html);
    let of = |attribute: &str, with: &str| -> Vec<String> {
        let value = |tag: &&str| Some(tag.split_once(attribute)?.1.split_once('"')?.0.to_owned());
        tags.iter().filter(|tag| tag.starts_with(with)).filter_map(value).collect()
    };
    let (links, targets) = (of("href=\"#", "a "), [of(" id=\"", "h2"), of(" id=\"", "h3")].concat());
    assert_eq!(links.len(), 6);
    assert_eq!(links.iter().collect::<HashSet<_>>().len(), 6, "{links:?}");
    assert!(links.iter().all(|link| targets.contains(link)), "{links:?} {targets:?}");
    let mut written = Written::default();
    let ids = ["Which Tokens", "which-tokens", "σ", "contents"].map(|name| written.id(name));
    assert_eq!(ids, ["which-tokens", "which-tokens-2", "section", "section-2"]);
}

#[test]
fn a_page_needs_nothing_but_itself() {
    let html = page_with("a").html();
    assert!(!html.contains("//") && !html.contains("url("), "a reference to elsewhere");
    for tag in tags(&html) {
        assert!(!["script", "link", "iframe", "object"].iter().any(|name| tag.starts_with(name)), "{tag}");
        let outside = tag.contains("src=") && !tag.contains("src=\"data:image/png;base64,");
        assert!(!outside && (!tag.contains("href=") || tag.contains("href=\"#")), "{tag}");
    }
}

#[test]
fn a_table_has_headers_and_numbers_to_the_right() {
    let text = |row: [&str; 3]| row.map(str::to_owned).to_vec();
    let rows = vec![text(["I-JEPA", "53.1 ± 0.8", "x < y"]), text(["pixels", "–", ""]), vec!["none".to_owned()]];
    let html = html_of_table(&Table { caption: "c".into(), columns: text(["arm", "top-1", "note"]), rows });
    for expected in [
        "<caption><span>c</span></caption>",
        "<tr><th scope=\"col\">arm</th><th scope=\"col\" class=\"number\">top-1</th><th scope=\"col\">note</th></tr>",
        "<tr><th scope=\"row\">I-JEPA</th><td class=\"number\">53.1 ± 0.8</td><td>x &lt; y</td></tr>",
        "<tr><th scope=\"row\">none</th><td class=\"number\"></td><td></td></tr>",
    ] {
        assert!(html.contains(expected), "no {expected} in\n{html}");
    }
}

/// The examples of RFC 4648, section 10, and all letters.
#[test]
fn base64_as_the_standard_has_it() {
    let examples = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
    assert_eq!(examples, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    assert_eq!(base64(&[0xFB, 0xEF, 0xFF, 0, 0x10, 0x83]), "++//ABCD");
}

#[test]
fn pictures_are_told_from_what_is_none() {
    let new = |bytes: &[u8]| Picture::new(bytes.to_vec()).map(|picture| picture.media_type);
    assert_eq!(new(b"\n<svg width=\"1\"></svg>\n"), Ok("image/svg+xml"));
    assert_eq!(new(b"<?xml version=\"1.0\"?><svg/></svg>"), Ok("image/svg+xml"));
    assert!(new(b"<svg><g>").unwrap_err().contains("cut off"));
    assert!(new(b"\x89PNG\r\n\x1a\n...").unwrap_err().contains("cut off"));
    for other in [&b""[..], b"<html></svg>", b"GIF89a", b"\xff\xd8"] {
        assert!(new(other).unwrap_err().contains("neither"), "{other:?}");
    }
}

/// WCAG 2.1, 1.4.3 (text) and 1.4.11 (rules that carry meaning).
#[test]
fn contrast_suffices_in_light_and_dark() {
    let linear = |c: u8| {
        let c = f64::from(c) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    let luminance = |[r, g, b]: Rgb| 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    let contrast = |a: Rgb, b: Rgb| {
        let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
        a.max(b) / a.min(b)
    };
    assert!((contrast(BLACK, WHITE) - 21.0).abs() < 1e-9);
    for theme in [light(), dark()] {
        for text in [theme.ink, theme.muted, theme.link] {
            assert!(contrast(text, theme.paper) >= 4.5, "{text:?}");
        }
        assert!(contrast(theme.warning, theme.paper) >= 3.0);
    }
    assert!(luminance(dark().paper) < 0.05 && light().paper == WHITE);
}
