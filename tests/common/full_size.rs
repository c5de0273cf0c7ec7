//! The published model's names and shapes, and a file that has them without its 28 GB.

use std::io::{Read, Write};

use qwen_nvfp4::checkpoint::Component;
use safetensors::Dtype;

/// A tensor of the golden list.
pub struct Golden {
    pub component: Component,
    pub stored: String,
    pub canonical: String,
    pub shape: Vec<usize>,
}

/// Every tensor of the published model.
pub fn golden() -> Vec<Golden> {
    let packed = include_bytes!("../fixtures/full_size/full_size.tsv.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed[..])
        .read_to_string(&mut text)
        .unwrap();
    let line = |line: &str| {
        let [component, stored, canonical, shape] =
            line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        Golden {
            component: match component {
                "transformer" => Component::Transformer,
                "text_encoder" => Component::TextEncoder,
                "vae" => Component::Vae,
                other => panic!("{other}"),
            },
            stored: stored.to_owned(),
            canonical: canonical.to_owned(),
            shape: serde_json::from_str(shape).unwrap(),
        }
    };
    text.lines().map(line).collect()
}

/// A file with the header of an FP8 all-in-one and no data on disk: the length is set, nothing is written.
pub fn sparse(golden: &[Golden]) -> tempfile::NamedTempFile {
    let (mut header, mut end) = (serde_json::Map::new(), 0u64);
    let mut add = |name: &str, dtype: Dtype, shape: &[usize]| {
        let size = (shape.iter().product::<usize>() * dtype.bitsize() / 8) as u64;
        let entry =
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]});
        header.insert(name.to_owned(), entry);
        end += size;
    };
    for tensor in golden {
        let dtype = if tensor.component == Component::Vae {
            Dtype::BF16
        } else {
            Dtype::F8_E4M3
        };
        add(&tensor.stored, dtype, &tensor.shape);
    }
    add("text_encoders.qwen25_7b.logit_scale", Dtype::F32, &[]);
    let json = serde_json::to_vec(&header).unwrap();
    let mut file = tempfile::Builder::new()
        .suffix(".safetensors")
        .tempfile()
        .unwrap();
    file.write_all(&(json.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&json).unwrap();
    file.as_file().set_len(8 + json.len() as u64 + end).unwrap();
    file
}
