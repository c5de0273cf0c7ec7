//! The kinds of faults, and the list that the checks write into.

use serde::Serialize;

/// What is wrong with one tensor (or, where `tensor` is empty, with a file as a whole).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The name as stored.
    pub tensor: String,
    /// A word for scripts.
    pub kind: FaultKind,
    /// A sentence for people, with what to do.
    pub message: String,
}

/// Kinds of faults. Those marked "advice" are never in [`Report::faults`](super::Report::faults): such a file works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The file ends before its last tensor.
    Truncated,
    /// The file goes on after its last tensor.
    TrailingBytes,
    /// A tensor does not begin at a multiple of its element's size.
    Misaligned,
    /// The same tensor under two names.
    DuplicateTensor,
    /// Some components carry a prefix and some do not: ComfyUI's checkpoint loader finds only a part of them.
    StrippedPrefix,
    /// Advice: an all-in-one without text encoder or VAE.
    IncompleteAllInOne,
    /// A tensor that the model needs is not there.
    Missing,
    /// A tensor has another shape than its neighbours ask for.
    WrongShape,
    /// A tensor that no part of the model has.
    Unknown,
    /// A tensor of another quantization scheme (bitsandbytes, compressed-tensors, nunchaku, 128 x 128 blocks, ...).
    ForeignQuantization,
    /// The sizes cannot be told, or config and tensors contradict each other.
    Config,

    /// A record that is no JSON object with a format.
    UnreadableRecord,
    /// Quantization metadata that cannot be read as a whole.
    UnreadableMetadata,
    /// An entry of the metadata that is no object with a format, for example the older plain string.
    MetadataEntry,
    /// The metadata names a layer that the file has under another prefix.
    WrongPrefix,
    /// The metadata names a layer that the file does not have.
    AbsentLayer,
    /// Record and metadata name different formats.
    Disagreement,
    /// The older `scaled_fp8` marker beside records or metadata.
    MixedMarkers,
    /// The older `scaled_fp8` marker without any layer that it could speak for.
    IdleMarker,
    /// A marker names a format that is not known.
    UnknownMarker,
    /// A marker for a layer that has no weight.
    RecordWithoutWeight,
    /// A marker says one format, the weight is stored in another.
    WrongFormat,
    /// A weight with a scale but without a marker: the scale would be ignored.
    MissingMarker,
    /// A packed (U8) weight without a marker.
    PackedWithoutRecord,
    /// Advice: FP8 linears without a record where others have one; ComfyUI widens them to BF16.
    UnrecordedFp8,
    /// Advice: a transformer alone, with prefix, whose formats stand in the metadata only; older ComfyUI loses them.
    MetadataOnly,

    /// `img_in` as NVFP4: ComfyUI reads the number of channels from its stored shape.
    ImgInNvfp4,
    /// An NVFP4 weight that is not stored in whole blocks: a side is no multiple of 16.
    UnalignedNvfp4,
    /// Advice: an NVFP4 weight that had to be padded (the MLPs of the vision tower, K = 3420).
    PaddedNvfp4,

    /// An FP8 layer with a record but without `weight_scale`.
    MissingWeightScale,
    /// An NVFP4 layer without `weight_scale_2`.
    #[serde(rename = "missing_weight_scale_2")]
    MissingWeightScale2,
    /// An NVFP4 layer without block scales.
    MissingBlockScales,
    /// NVFP4 block scales of a wrong shape or type.
    BlockScaleLayout,
    /// Block scales that are all zero while the codes are not.
    ZeroBlockScales,
    /// The padding of a swizzled block-scale matrix is not zero.
    SwizzlePadding,
    /// A scale is NaN.
    NanScale,
    /// A scale is infinite.
    InfiniteScale,
    /// A scale is negative.
    NegativeScale,
    /// A scale is zero.
    ZeroScale,
    /// A scale so large that no weight can be meant: its reciprocal was stored.
    InvertedScale,
    /// Advice: a scale of 16 bits.
    ScalePrecision,
    /// One scale under both spellings, `weight_scale` and `scale_weight`.
    TwoSpellings,
    /// A layer with a record whose scale has the older spelling only.
    OldSpelling,
    /// A scale whose weight is gone.
    StrayCompanion,
    /// Advice: FP8 layers of the transformer without `input_scale`; ComfyUI clamps their input to ±448.
    NoInputScale,

    /// A norm or a bias with NaN or infinite numbers.
    NotFinite,
    /// A weight with NaN or infinite numbers (looked for by the deep inspection).
    NanWeight,
    /// A scale that was computed for numbers that were never divided by it (deep inspection).
    UndividedWeight,
    /// Advice: FP8 numbers that fill the whole range, without a scale (deep inspection).
    LostScale,
    /// Advice: E5M2 weights, which keep two bits of mantissa.
    E5m2,
    /// Advice: FP8 biases of quantized layers, which some ComfyUI kernels refuse.
    Fp8Bias,
}

/// What the checks found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// What works but could be better.
    pub advice: Vec<Fault>,
}

impl Findings {
    /// Something is wrong with `tensor`.
    pub fn fault(&mut self, tensor: &str, kind: FaultKind, message: impl Into<String>) {
        self.faults.push(Fault {
            tensor: tensor.to_owned(),
            kind,
            message: message.into(),
        });
    }

    /// `tensor` works but could be better.
    pub fn advise(&mut self, tensor: &str, kind: FaultKind, message: impl Into<String>) {
        self.advice.push(Fault {
            tensor: tensor.to_owned(),
            kind,
            message: message.into(),
        });
    }

    /// Takes over what other checks found.
    pub fn append(&mut self, mut other: Self) {
        self.faults.append(&mut other.faults);
        self.advice.append(&mut other.advice);
    }
}
