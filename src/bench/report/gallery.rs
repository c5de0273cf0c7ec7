//! Pictures side by side, and the worst of each row beside the baseline's.
//!
//! A box has both pictures as two layers of the same kind and place, so that browsers round their pixels alike and the difference
//! of equal pictures is black; CSS alone makes that view. The baseline's bytes are in the page once.

use std::collections::BTreeMap;
use std::path::Path;

use super::columns::rows;
use super::pictures::{Embedded, embed};
use super::text::{escape, number};
use crate::bench::results::{Picture, Results, Variant};

/// Prompts whose pictures are shown side by side.
const PROMPTS: usize = 12;
/// Pictures that are shown of the worst of a row.
const WORST: usize = 5;
/// Bytes of pictures after which no more prompts, or no more of the worst, are added.
const BUDGET: usize = 8 << 20;
/// Figures by which pictures are ranked: the first that a picture has; with how they are written.
const RANKED_BY: [(&str, &str, usize); 5] = [
    ("ssimulacra2", "SSIMULACRA2", 1),
    ("ms_ssim", "MS-SSIM", 3),
    ("ssim", "SSIM", 3),
    ("psnr_db", "PSNR", 1),
    ("detail_ratio", "detail", 2),
];

/// Both collections, and what was left out.
pub(super) struct Gallery {
    /// Rules for the baseline's pictures.
    pub css: String,
    /// Side by side, by prompt.
    pub prompts: String,
    /// The worst, by row.
    pub worst: String,
    /// Prompts that are shown.
    pub shown: usize,
    /// Files that should be there and cannot be shown.
    pub missing: usize,
}

/// Reads the pictures that are shown.
pub(super) fn gallery(results: &Results, dir: &Path) -> Gallery {
    let mut album = Album {
        results,
        dir,
        css: String::new(),
        backgrounds: BTreeMap::new(),
        bytes: 0,
        missing: 0,
    };
    let mut prompts = String::new();
    let mut shown = 0;
    while shown < PROMPTS.min(results.prompts.len()) && album.bytes < BUDGET {
        prompts += &album.side_by_side(shown);
        shown += 1;
    }
    album.bytes = 0;
    let worst = album.worst();
    Gallery {
        css: album.css,
        prompts,
        worst,
        shown,
        missing: album.missing,
    }
}

struct Album<'a> {
    results: &'a Results,
    dir: &'a Path,
    css: String,
    /// Width and height of the baseline's pictures that have a rule, nothing for those that cannot be shown.
    backgrounds: BTreeMap<usize, Option<(u32, u32)>>,
    bytes: usize,
    missing: usize,
}

impl Album<'_> {
    fn load(&mut self, picture: Option<&Picture>) -> Result<Embedded, String> {
        let picture = picture.ok_or_else(|| "not made".to_owned())?;
        let read = embed(self.dir, &picture.file);
        match &read {
            Ok(embedded) => self.bytes += embedded.uri.len(),
            Err(_) => self.missing += 1,
        }
        read.map_err(|why| format!("{}: {why}", picture.file))
    }

    /// Sees to it that class `b{i}` shows the baseline's picture of prompt `i`; its width and height.
    fn background(&mut self, i: usize) -> Option<(u32, u32)> {
        if let Some(known) = self.backgrounds.get(&i) {
            return *known;
        }
        let baseline = self.results.variants.get(&self.results.baseline);
        let read = self.load(baseline.and_then(|row| row.pictures.get(i))).ok();
        let size = read.map(|e| {
            self.css += &format!(".b{i}{{--b:url({})}}\n", e.uri);
            (e.width, e.height)
        });
        self.backgrounds.insert(i, size);
        size
    }

    /// The box of a picture, or of what is said in its place.
    fn shot(&mut self, name: &str, row: &Variant, i: usize) -> String {
        let background = self.background(i);
        let prompt = self
            .results
            .prompts
            .get(i)
            .map_or("", |p| p.prompt.as_str());
        let alt = escape(&format!("{name}: {prompt}"));
        let own = name == self.results.baseline;
        let (class, (w, h), variable) = match (own, background) {
            (true, Some(size)) => (format!("own b{i}"), size, String::new()),
            _ => match self.load(row.pictures.get(i)) {
                Ok(e) => {
                    let class = background.map_or("alone".to_owned(), |_| format!("over b{i}"));
                    (class, (e.width, e.height), format!(";--v:url({})", e.uri))
                }
                Err(why) => {
                    let why = escape(&why);
                    return format!("<div class=\"pic none\"><span>{why}</span></div>");
                }
            },
        };
        // Small pictures keep their pixels where they are shown large.
        let crisp = if w <= 128 { " crisp" } else { "" };
        format!(
            "<div class=\"pic {class}{crisp}\" role=\"img\" aria-label=\"{alt}\" \
             style=\"aspect-ratio:{w}/{h}{variable}\"></div>"
        )
    }

    fn side_by_side(&mut self, i: usize) -> String {
        let results = self.results;
        let mut figures = String::new();
        for (name, row) in rows(results).filter(|(_, row)| !row.pictures.is_empty()) {
            let note = row.pictures.get(i).map_or(String::new(), |p| note(p, 1));
            let shot = self.shot(name, row, i);
            let name = escape(name);
            figures +=
                &format!("<figure>{shot}<figcaption><b>{name}</b>{note}</figcaption></figure>");
        }
        let prompt = results.prompts.get(i);
        let (text, seed) = prompt.map_or(("", 0), |p| (p.prompt.as_str(), p.seed));
        format!(
            "<section class=\"prompt\"><h3><span class=\"no\">{i}</span> {} \
             <small>seed {seed}</small></h3><div class=\"shots\">{figures}</div></section>\n",
            escape(text)
        )
    }

    fn worst(&mut self) -> String {
        let results = self.results;
        let others = rows(results).filter(|(name, _)| *name != results.baseline);
        let ranked: Vec<_> = others
            .map(|(name, row)| (name, row, ranking(row)))
            .filter(|(_, _, ranking)| !ranking.is_empty())
            .collect();
        let mut figures = vec![String::new(); ranked.len()];
        // The worst of all rows first, so that each has some if there is not room for all.
        for place in 0..WORST {
            for (k, (name, row, ranking)) in ranked.iter().enumerate() {
                if let Some(&i) = ranking.get(place).filter(|_| self.bytes < BUDGET) {
                    figures[k] += &self.pair(name, row, i);
                }
            }
        }
        let titled = ranked.iter().zip(figures).map(|((name, _, _), figures)| {
            format!(
                "<section class=\"row\"><h3>{}</h3>\
                 <div class=\"pairs\">{figures}</div></section>\n",
                escape(name)
            )
        });
        titled.collect()
    }

    /// The baseline's picture and the row's.
    fn pair(&mut self, name: &str, row: &Variant, i: usize) -> String {
        let results = self.results;
        let baseline = results.variants.get_key_value(&results.baseline);
        let left = baseline.map_or(String::new(), |(b, r)| self.shot(b, r, i));
        let right = self.shot(name, row, i);
        let scores = row
            .pictures
            .get(i)
            .map_or(String::new(), |p| note(p, RANKED_BY.len()));
        let prompt = results.prompts.get(i).map_or("", |p| p.prompt.as_str());
        format!(
            "<figure><div class=\"two\">{left}{right}</div><figcaption>\
             <span class=\"no\">{i}</span> {}<br>{scores}</figcaption></figure>",
            escape(prompt)
        )
    }
}

/// Pictures of a row from the worst on.
fn ranking(row: &Variant) -> Vec<usize> {
    let score = |p: &Picture| {
        let known = RANKED_BY
            .iter()
            .filter_map(|(key, _, _)| p.scores.get(*key));
        known.copied().find(|v| v.is_finite())
    };
    let scored = row.pictures.iter().enumerate();
    let mut scored: Vec<_> = scored.filter_map(|(i, p)| Some((score(p)?, i))).collect();
    scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    scored.into_iter().map(|(_, i)| i).collect()
}

/// At most so many scores of a picture, and whether it is right.
fn note(picture: &Picture, most: usize) -> String {
    let scores = RANKED_BY.iter().filter_map(|(key, name, digits)| {
        let value = picture.scores.get(*key).filter(|v| v.is_finite())?;
        Some(format!(
            "<span class=\"score\"><abbr>{name}</abbr> {}</span>",
            number(*value, *digits)
        ))
    });
    let scores: Vec<_> = scores.take(most).collect();
    let right = match picture.right {
        Some(true) => " <span class=\"yes\">✓<span class=\"word\"> right</span></span>",
        Some(false) => " <span class=\"no-match\">✗<span class=\"word\"> wrong</span></span>",
        None => "",
    };
    format!("{}{right}", scores.join(" "))
}
