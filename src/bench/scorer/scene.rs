//! What a caption asks for: the grammar and the palette of the tiny model's training scenes.

use super::shape::Shape;

/// A closed vocabulary: an enum with its words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$item_doc])* $item,)* }

        impl $name {
            /// All of them, in the order of the vocabulary.
            pub const ALL: &[Self] = &[$(Self::$item,)*];

            /// The word a caption uses.
            pub fn word(self) -> &'static str {
                match self { $(Self::$item => $word,)* }
            }

            /// The one whose word this is.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|item| item.word() == word)
            }
        }
    };
}
pub(super) use words;

words! {
    /// How big an object is.
    Size {
        /// Radius 0.165 of the side.
        Small = "small",
        /// Radius 0.235 of the side.
        Large = "large",
    }
}

words! {
    /// The colour of an object (saturated).
    Color {
        /// (220, 30, 35)
        Red = "red",
        /// (250, 130, 10)
        Orange = "orange",
        /// (250, 220, 20)
        Yellow = "yellow",
        /// (20, 150, 50)
        Green = "green",
        /// (30, 70, 220)
        Blue = "blue",
        /// (140, 40, 170)
        Purple = "purple",
        /// (250, 250, 250)
        White = "white",
        /// (15, 15, 18)
        Black = "black",
    }
}

words! {
    /// The colour of a background (pastel).
    Back {
        /// (250, 190, 200) to (225, 150, 165)
        Pink = "pink",
        /// (250, 240, 170) to (225, 210, 125)
        Yellow = "yellow",
        /// (180, 225, 180) to (140, 195, 145)
        Green = "green",
        /// (175, 205, 245) to (135, 170, 220)
        Blue = "blue",
        /// (215, 190, 235) to (180, 150, 205)
        Purple = "purple",
        /// (185, 185, 185) to (145, 145, 145)
        Gray = "gray",
        /// (190, 155, 120) to (155, 120, 85)
        Brown = "brown",
        /// (165, 230, 230) to (120, 195, 195)
        Cyan = "cyan",
    }
}

words! {
    /// How a background is filled.
    Style {
        /// One colour.
        Plain = "plain",
        /// Eight vertical stripes of two colours.
        Striped = "striped",
        /// From the first colour at the top to the second at the bottom.
        Gradient = "gradient",
    }
}

impl Color {
    /// The colour in RGB, 0 to 255.
    pub(super) fn rgb(self) -> [f32; 3] {
        match self {
            Self::Red => [220.0, 30.0, 35.0],
            Self::Orange => [250.0, 130.0, 10.0],
            Self::Yellow => [250.0, 220.0, 20.0],
            Self::Green => [20.0, 150.0, 50.0],
            Self::Blue => [30.0, 70.0, 220.0],
            Self::Purple => [140.0, 40.0, 170.0],
            Self::White => [250.0, 250.0, 250.0],
            Self::Black => [15.0, 15.0, 18.0],
        }
    }
}

impl Back {
    /// The main and the second colour in RGB, 0 to 255.
    pub(super) fn rgb(self) -> [[f32; 3]; 2] {
        match self {
            Self::Pink => [[250.0, 190.0, 200.0], [225.0, 150.0, 165.0]],
            Self::Yellow => [[250.0, 240.0, 170.0], [225.0, 210.0, 125.0]],
            Self::Green => [[180.0, 225.0, 180.0], [140.0, 195.0, 145.0]],
            Self::Blue => [[175.0, 205.0, 245.0], [135.0, 170.0, 220.0]],
            Self::Purple => [[215.0, 190.0, 235.0], [180.0, 150.0, 205.0]],
            Self::Gray => [[185.0, 185.0, 185.0], [145.0, 145.0, 145.0]],
            Self::Brown => [[190.0, 155.0, 120.0], [155.0, 120.0, 85.0]],
            Self::Cyan => [[165.0, 230.0, 230.0], [120.0, 195.0, 195.0]],
        }
    }
}

/// Where a lone object stands, as (column, row) in units of the side.
const ONE: [(&str, (f64, f64)); 5] = [
    ("in the center", (0.5, 0.5)),
    ("on the left", (0.27, 0.5)),
    ("on the right", (0.73, 0.5)),
    ("at the top", (0.5, 0.27)),
    ("at the bottom", (0.5, 0.73)),
];

/// Where the first and the second of two objects stand.
const TWO: [(&str, [(f64, f64); 2]); 4] = [
    ("above", [(0.5, 0.24), (0.5, 0.76)]),
    ("below", [(0.5, 0.76), (0.5, 0.24)]),
    ("left of", [(0.24, 0.5), (0.76, 0.5)]),
    ("right of", [(0.76, 0.5), (0.24, 0.5)]),
];

/// One object that a caption asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SceneObject {
    /// How big.
    pub size: Size,
    /// Its colour.
    pub color: Color,
    /// What it is.
    pub shape: Shape,
    /// Where its centre belongs: (column, row) in units of the side.
    pub place: (f64, f64),
}

/// What a caption asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// One or two objects.
    pub objects: Vec<SceneObject>,
    /// The background's fill.
    pub style: Style,
    /// The background's colour.
    pub back: Back,
}

/// A caption outside of the grammar.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{caption}` is not a caption of the tiny model; they read `a SIZE COLOR SHAPE above a SIZE COLOR SHAPE \
     on a STYLE COLOR background`"
)]
pub struct SceneError {
    caption: String,
}

impl std::str::FromStr for Scene {
    type Err = SceneError;

    /// `a large red star above a small blue circle on a plain yellow background`, or
    /// `a large red star at the top on a plain yellow background`.
    fn from_str(caption: &str) -> Result<Self, SceneError> {
        parse(caption).ok_or_else(|| SceneError {
            caption: caption.to_owned(),
        })
    }
}

fn parse(caption: &str) -> Option<Scene> {
    let (what, ground) = caption.strip_suffix(" background")?.rsplit_once(" on a ")?;
    let (style, back) = ground.split_once(' ')?;
    let (first, rest) = object(what)?;
    let mut objects = Vec::new();
    if let Some((_, place)) = ONE.iter().find(|(words, _)| *words == rest) {
        objects.push(SceneObject {
            place: *place,
            ..first
        });
    } else {
        let (words, places) = TWO
            .iter()
            .find(|(words, _)| rest.strip_prefix(words).is_some_and(|r| r.starts_with(' ')))?;
        let (second, rest) = object(rest[words.len()..].trim_start())?;
        if !rest.is_empty() {
            return None;
        }
        objects.push(SceneObject {
            place: places[0],
            ..first
        });
        objects.push(SceneObject {
            place: places[1],
            ..second
        });
    }
    Some(Scene {
        objects,
        style: Style::from_word(style)?,
        back: Back::from_word(back)?,
    })
}

/// `a SIZE COLOR SHAPE` and what follows it; the place is yet to be filled in.
fn object(text: &str) -> Option<(SceneObject, &str)> {
    let mut words = text.splitn(5, ' ');
    let (article, size, color, shape) =
        (words.next()?, words.next()?, words.next()?, words.next()?);
    if article != "a" {
        return None;
    }
    let object = SceneObject {
        size: Size::from_word(size)?,
        color: Color::from_word(color)?,
        shape: Shape::from_word(shape)?,
        place: (0.0, 0.0),
    };
    Some((object, words.next().unwrap_or("")))
}
