//! LPIPS, the learned metric of Zhang, Isola, Efros, Shechtman and Wang (2018), with weights that the user brings.
//!
//! The file is the state of the authors' own module, version 0.1:
//! `torch.save(lpips.LPIPS(net='alex').state_dict(), 'lpips-alex.pth')`, or the same tensors as safetensors. Which trunk it
//! is, AlexNet or VGG16, is read from the tensors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{D, DType, Device, Tensor};

use super::{Pair, Picture};

/// What keeps features without any energy from dividing by zero.
const EPSILON: f64 = 1e-10;
/// Mean and deviation of ImageNet's colours, as the authors wrote them for pixels of -1 to 1.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// Why there is no LPIPS.
#[derive(Debug, thiserror::Error)]
pub enum LpipsError {
    /// The file cannot be read.
    #[error(
        "{path}: {source}; give the state of the authors' module, as torch.save or as safetensors"
    )]
    File {
        /// Which.
        path: PathBuf,
        /// The reader's reason.
        source: candle_core::Error,
    },
    /// Something is not there, or not as it should be.
    #[error(
        "{path}: {tensor} {problem}; make the file with torch.save(lpips.LPIPS(net='alex').state_dict(), 'lpips-alex.pth')"
    )]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A picture that the trunk makes nothing of.
    #[error("LPIPS needs pictures of at least {least} pixels a side, not {width}x{height}")]
    TooSmall {
        /// The least side.
        least: usize,
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The arithmetic failed.
    #[error("LPIPS: {0}")]
    Arithmetic(#[from] candle_core::Error),
}

/// One step of a trunk.
enum Step {
    /// The largest of `window` x `window` at every second place.
    Pool { window: usize },
    /// A convolution and a ReLU; `weight` `[out, in, k, k]`, `bias` `[1, out, 1, 1]`.
    Convolution {
        weight: Tensor,
        bias: Tensor,
        stride: usize,
        padding: usize,
    },
}

/// A trunk's steps up to where its features are compared, and the weight of each channel `[1, channels, 1, 1]`.
struct Stage {
    steps: Vec<Step>,
    lin: Tensor,
}

/// A step before it has weights: `torchvision`'s numbering of `features`, which the names keep.
#[derive(Clone, Copy)]
enum Shape {
    Pool(usize),
    /// Number, kernel, stride, padding.
    Convolution(usize, usize, usize, usize),
}

use Shape::{Convolution as C, Pool as P};

/// `torchvision.models.alexnet().features`, cut after each ReLU.
const ALEXNET: [&[Shape]; 5] = [
    &[C(0, 11, 4, 2)],
    &[P(3), C(3, 5, 1, 2)],
    &[P(3), C(6, 3, 1, 1)],
    &[C(8, 3, 1, 1)],
    &[C(10, 3, 1, 1)],
];
/// `torchvision.models.vgg16().features`, cut before each pool.
const VGG16: [&[Shape]; 5] = [
    &[C(0, 3, 1, 1), C(2, 3, 1, 1)],
    &[P(2), C(5, 3, 1, 1), C(7, 3, 1, 1)],
    &[P(2), C(10, 3, 1, 1), C(12, 3, 1, 1), C(14, 3, 1, 1)],
    &[P(2), C(17, 3, 1, 1), C(19, 3, 1, 1), C(21, 3, 1, 1)],
    &[P(2), C(24, 3, 1, 1), C(26, 3, 1, 1), C(28, 3, 1, 1)],
];
/// Below, AlexNet's second pool or VGG16's fourth has nothing left.
const LEAST_SIDE: [usize; 2] = [31, 16];

/// The metric with its weights.
pub struct Lpips {
    stages: Vec<Stage>,
    trunk: &'static str,
    least: usize,
}

impl Lpips {
    /// Reads the weights.
    ///
    /// # Errors
    /// A file that cannot be read, or a tensor that is missing, has another shape, or holds numbers that are not finite.
    pub fn open(path: &Path) -> Result<Self, LpipsError> {
        let tensors = read(path).map_err(|source| LpipsError::File {
            path: path.to_owned(),
            source,
        })?;
        let file = File { path, tensors };
        let is_alexnet = file.get("net.slice1.0.weight")?.dims()[2..] == [11, 11];
        let (shapes, trunk, least) = match is_alexnet {
            true => (&ALEXNET, "AlexNet", LEAST_SIDE[0]),
            false => (&VGG16, "VGG16", LEAST_SIDE[1]),
        };
        let mut channels = 3;
        let stages = shapes.iter().enumerate();
        let stages = stages.map(|(i, shapes)| file.stage(i, shapes, &mut channels));
        Ok(Self {
            stages: stages.collect::<Result<_, _>>()?,
            trunk,
            least,
        })
    }

    /// `AlexNet` or `VGG16`.
    pub fn trunk(&self) -> &'static str {
        self.trunk
    }

    /// The least width and height of a picture.
    pub fn least_side(&self) -> usize {
        self.least
    }

    /// The distance of a pair: 0 is equal, above 0.5 hardly related.
    ///
    /// # Errors
    /// Pictures below 31 (AlexNet) or 16 (VGG16) pixels a side.
    pub fn distance(&self, pair: &Pair) -> Result<f64, LpipsError> {
        let (width, height) = (pair.picture().width(), pair.picture().height());
        if width.min(height) < self.least {
            return Err(LpipsError::TooSmall {
                least: self.least,
                width,
                height,
            });
        }
        let (mut a, mut b) = (input(pair.reference())?, input(pair.picture())?);
        let mut distance = 0.0;
        for stage in &self.stages {
            (a, b) = (stage.forward(a)?, stage.forward(b)?);
            let difference = (normalize(&a)? - normalize(&b)?)?.sqr()?;
            let weighed = difference.broadcast_mul(&stage.lin)?.sum(1)?;
            distance += weighed
                .to_dtype(DType::F64)?
                .mean_all()?
                .to_scalar::<f64>()?;
        }
        Ok(distance)
    }
}

impl Stage {
    /// `x` `[1, in, h, w]` to the stage's features.
    fn forward(&self, mut x: Tensor) -> candle_core::Result<Tensor> {
        for step in &self.steps {
            x = match step {
                Step::Pool { window } => x.max_pool2d_with_stride(*window, 2)?,
                Step::Convolution {
                    weight,
                    bias,
                    stride,
                    padding,
                } => x
                    .conv2d(weight, *padding, *stride, 1, 1)?
                    .broadcast_add(bias)?
                    .relu()?,
            };
        }
        Ok(x)
    }
}

/// Features of length 1 at every place.
fn normalize(x: &Tensor) -> candle_core::Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.sum_keepdim(1)?.sqrt()? + EPSILON)?)
}

/// Pixels as the trunk takes them, `[1, 3, height, width]`.
fn input(picture: Picture<'_>) -> candle_core::Result<Tensor> {
    let colour = |value: u8, c: usize| (f32::from(value) / 127.5 - 1.0 - SHIFT[c]) / SCALE[c];
    let pixels = picture.rgb().iter().enumerate();
    let values: Vec<f32> = pixels.map(|(i, value)| colour(*value, i % 3)).collect();
    let shape = (1, picture.height(), picture.width(), 3);
    Tensor::from_vec(values, shape, &Device::Cpu)?
        .permute((0, 3, 1, 2))?
        .contiguous()
}

fn read(path: &Path) -> candle_core::Result<HashMap<String, Tensor>> {
    if path.extension().is_some_and(|e| e == "safetensors") {
        return candle_core::safetensors::load(path, &Device::Cpu);
    }
    Ok(candle_core::pickle::read_all(path)?.into_iter().collect())
}

struct File<'a> {
    path: &'a Path,
    tensors: HashMap<String, Tensor>,
}

impl File<'_> {
    fn wrong(&self, tensor: &str, problem: impl Into<String>) -> LpipsError {
        LpipsError::Tensor {
            path: self.path.to_owned(),
            tensor: tensor.to_owned(),
            problem: problem.into(),
        }
    }

    /// A tensor of four dimensions, or a bias of one.
    fn get(&self, name: &str) -> Result<&Tensor, LpipsError> {
        let tensor = self.tensors.get(name);
        let tensor = tensor.ok_or_else(|| self.wrong(name, "is missing"))?;
        let expected = if name.ends_with(".bias") { 1 } else { 4 };
        if tensor.rank() != expected {
            let problem = format!(
                "has the shape {:?}, not {expected} dimensions",
                tensor.dims()
            );
            return Err(self.wrong(name, problem));
        }
        Ok(tensor)
    }

    /// A tensor of one shape in F32, all numbers finite.
    fn take(&self, name: &str, shape: &[usize]) -> Result<Tensor, LpipsError> {
        let tensor = self.get(name)?;
        if tensor.dims() != shape {
            let problem = format!("has the shape {:?}, not {shape:?}", tensor.dims());
            return Err(self.wrong(name, problem));
        }
        let tensor = tensor.to_dtype(DType::F32)?;
        let sum = tensor
            .abs()?
            .flatten_all()?
            .sum(D::Minus1)?
            .to_scalar::<f32>()?;
        if !sum.is_finite() {
            return Err(self.wrong(name, "holds numbers that are not finite"));
        }
        Ok(tensor)
    }

    fn stage(&self, i: usize, shapes: &[Shape], channels: &mut usize) -> Result<Stage, LpipsError> {
        let mut steps = Vec::with_capacity(shapes.len());
        for shape in shapes {
            steps.push(match *shape {
                P(window) => Step::Pool { window },
                C(number, kernel, stride, padding) => {
                    let name = |what| format!("net.slice{}.{number}.{what}", i + 1);
                    let out = self.get(&name("weight"))?.dims()[0];
                    let weight = self.take(&name("weight"), &[out, *channels, kernel, kernel])?;
                    let bias = self.take(&name("bias"), &[out])?.reshape((1, out, 1, 1))?;
                    *channels = out;
                    Step::Convolution {
                        weight,
                        bias,
                        stride,
                        padding,
                    }
                }
            });
        }
        let lin = self.take(&format!("lin{i}.model.1.weight"), &[1, *channels, 1, 1])?;
        Ok(Stage { steps, lin })
    }
}
