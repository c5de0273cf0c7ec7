//! What was asked for against what was drawn.

use super::read::Reading;
use super::scene::Scene;

/// Which parts of a caption a picture got right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// As many objects as asked for.
    pub count: bool,
    /// The background's colour.
    pub back: bool,
    /// The background's fill.
    pub style: bool,
    /// An object within 0.17 of the side of each place (this is the order, too).
    pub place: bool,
    /// The colour of the object at each place.
    pub color: bool,
    /// Its shape, with an overlap above 0.6.
    pub shape: bool,
    /// Its size.
    pub size: bool,
}

impl Verdict {
    /// Whether everything is right.
    pub fn all(&self) -> bool {
        self.fields().iter().all(|(_, right)| *right)
    }

    /// The parts by name.
    pub fn fields(&self) -> [(&'static str, bool); 7] {
        [
            ("count", self.count),
            ("back", self.back),
            ("style", self.style),
            ("place", self.place),
            ("color", self.color),
            ("shape", self.shape),
            ("size", self.size),
        ]
    }
}

/// Compares a scene with what was read.
pub fn compare(scene: &Scene, reading: &Reading) -> Verdict {
    let nearest = |place: (f64, f64)| {
        reading
            .objects
            .iter()
            .map(|o| ((o.cx - place.0).hypot(o.cy - place.1), o))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(distance, _)| *distance < 0.17)
            .map(|(_, object)| object)
    };
    let pairs: Vec<_> = scene
        .objects
        .iter()
        .map(|want| (want, nearest(want.place)))
        .collect();
    Verdict {
        count: reading.objects.len() == scene.objects.len(),
        back: reading.back == scene.back,
        style: reading.style == scene.style,
        place: pairs.iter().all(|(_, got)| got.is_some()),
        color: pairs
            .iter()
            .all(|(want, got)| got.is_some_and(|g| g.color == want.color)),
        shape: pairs
            .iter()
            .all(|(want, got)| got.is_some_and(|g| g.shape == want.shape && g.iou > 0.6)),
        size: pairs
            .iter()
            .all(|(want, got)| got.is_some_and(|g| g.size == want.size)),
    }
}

/// The share of right answers in percent, for all scenes and by the number of objects.
pub fn table(verdicts: &[(Scene, Verdict)]) -> String {
    let row = |title: &str, objects: Option<usize>| {
        let chosen: Vec<_> = verdicts
            .iter()
            .filter(|(scene, _)| objects.is_none_or(|n| scene.objects.len() == n))
            .map(|(_, verdict)| verdict)
            .collect();
        let share = |right: usize| 100.0 * right as f64 / chosen.len().max(1) as f64;
        let all = share(chosen.iter().filter(|v| v.all()).count());
        let mut line = format!("{title:<12} {:>4}  all {all:>5.1}", chosen.len());
        for (i, (name, _)) in Verdict::default().fields().iter().enumerate() {
            let right = chosen.iter().filter(|v| v.fields()[i].1).count();
            line += &format!("  {name} {:>5.1}", share(right));
        }
        line
    };
    [
        row("all", None),
        row("one object", Some(1)),
        row("two objects", Some(2)),
    ]
    .join("\n")
}
