//! `libcublas`: the products that candle asks for.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};

use super::device::in_context;
use super::ffi::{Bytes, Out, api};
use super::gemm::{Gemm, Kind, Matrix};
use super::graph::Node;
use super::handles::Handles;
use super::settings::settings;
use super::status::{self, Error, INVALID_VALUE, Outcome};
use super::stream::submit;

/// `cublasGetVersion_v2`: 13.0.0.
const VERSION: i32 = 130_000;

#[derive(Debug, Default)]
struct Blas {
    stream: AtomicUsize,
    mode: AtomicUsize,
}

static HANDLES: LazyLock<Handles<Blas>> =
    LazyLock::new(|| Handles::new("cuBLAS handle", 0x8000_0000));

/// As [`status::answer`], with the codes of `cublasStatus_t`.
fn answer(call: &str, body: impl FnOnce() -> Outcome) -> u32 {
    match status::answer(call, body) {
        status::SUCCESS => 0,
        status::INVALID_HANDLE | status::INVALID_CONTEXT | status::NOT_INITIALIZED => 1,
        INVALID_VALUE => 7,
        status::NOT_SUPPORTED => 15,
        _ => 13,
    }
}

/// Sizes of a product and how its operands lie.
struct Problem {
    operations: (u32, u32),
    sizes: [i32; 3],
    batch: i32,
}

/// An operand: address, `cudaDataType`, leading dimension, stride.
type Operand = (u64, u32, i32, i64);

/// `alpha` and `beta` on the host, of type `kind`.
type Factors = (Bytes, Bytes, Kind);

fn factor(from: Bytes, kind: Kind) -> Result<f64, Error> {
    Ok(kind.decode(from.read(kind.bytes())?))
}

fn size(value: i32) -> Result<usize, Error> {
    usize::try_from(value).map_err(|_| Error::new(INVALID_VALUE, format!("a size of {value}")))
}

fn transposed(operation: u32) -> Result<bool, Error> {
    match operation {
        0 => Ok(false),
        1 | 2 => Ok(true),
        _ => Err(Error::new(
            INVALID_VALUE,
            format!("operation {operation} of a matrix"),
        )),
    }
}

/// `rows` are the rows as stored: no column may reach into the next.
fn matrix(
    (address, kind, leading, stride): Operand,
    transposed: bool,
    rows: usize,
) -> Result<Matrix, Error> {
    let (kind, leading) = (Kind::from_code(kind)?, size(leading)?);
    if leading < rows.max(1) {
        return Err(Error::new(
            INVALID_VALUE,
            format!("a leading dimension of {leading} for {rows} rows"),
        ));
    }
    Ok(Matrix {
        address,
        kind,
        leading,
        stride,
        transposed,
    })
}

fn product(handle: usize, problem: &Problem, factors: Factors, [a, b, c]: [Operand; 3]) -> Outcome {
    let (device, blas) = (in_context()?, HANDLES.get(handle)?);
    let [m, n, k] = [
        size(problem.sizes[0])?,
        size(problem.sizes[1])?,
        size(problem.sizes[2])?,
    ];
    let (ta, tb) = (
        transposed(problem.operations.0)?,
        transposed(problem.operations.1)?,
    );
    let (alpha, beta, kind) = factors;
    let gemm = Gemm {
        m,
        n,
        k,
        a: matrix(a, ta, if ta { k } else { m })?,
        b: matrix(b, tb, if tb { n } else { k })?,
        c: matrix(c, false, m)?,
        alpha: factor(alpha, kind)?,
        beta: factor(beta, kind)?,
        batch: size(problem.batch)?,
        check: settings().checks.uninitialised,
    };
    submit(
        device,
        blas.stream.load(SeqCst),
        Node::new(move |device| Ok(gemm.run(&device.memory)?)),
    )
}

/// Type of `alpha` and `beta` for a `cublasComputeType_t`.
fn scale(compute: u32) -> Result<Kind, Error> {
    match compute {
        64 | 65 => Ok(Kind::F16),
        68 | 69 | 74 | 75 | 77 => Ok(Kind::F32),
        70 | 71 => Ok(Kind::F64),
        _ => Err(Error::unsupported(&format!(
            "cublasComputeType_t {compute}"
        ))),
    }
}

const F16: u32 = 2;
const F32: u32 = 0;
const F64: u32 = 1;

/// Defines the products of one type: plain and in strided batches.
macro_rules! typed {
    ($($plain:ident $batched:ident $code:expr, $kind:expr;)*) => {
        api! { _typed, answer; $(
            fn $plain(
                handle: usize, ta: u32, tb: u32, m: i32, n: i32, k: i32, alpha: Bytes, a: u64, lda: i32, b: u64, ldb: i32,
                beta: Bytes, c: u64, ldc: i32,
            ) {
                let problem = Problem { operations: (ta, tb), sizes: [m, n, k], batch: 1 };
                let operands = [(a, $code, lda, 0), (b, $code, ldb, 0), (c, $code, ldc, 0)];
                product(handle, &problem, (alpha, beta, $kind), operands)
            }

            fn $batched(
                handle: usize, ta: u32, tb: u32, m: i32, n: i32, k: i32, alpha: Bytes, a: u64, lda: i32, stride_a: i64,
                b: u64, ldb: i32, stride_b: i64, beta: Bytes, c: u64, ldc: i32, stride_c: i64, batch: i32,
            ) {
                let problem = Problem { operations: (ta, tb), sizes: [m, n, k], batch };
                let operands = [(a, $code, lda, stride_a), (b, $code, ldb, stride_b), (c, $code, ldc, stride_c)];
                product(handle, &problem, (alpha, beta, $kind), operands)
            }
        )* }
    };
}

typed! {
    cublasHgemm cublasHgemmStridedBatched F16, Kind::F16;
    cublasSgemm_v2 cublasSgemmStridedBatched F32, Kind::F32;
    cublasDgemm_v2 cublasDgemmStridedBatched F64, Kind::F64;
}

api! { _table, answer;
    fn cublasCreate_v2(handle: Out<usize>) {
        in_context()?;
        handle.set(HANDLES.add(Arc::default()))
    }

    fn cublasDestroy_v2(handle: usize) {
        HANDLES.remove(handle).map(|_| ())
    }

    fn cublasGetVersion_v2(_handle: usize, version: Out<i32>) {
        version.set(VERSION)
    }

    fn cublasSetStream_v2(handle: usize, stream: usize) {
        HANDLES.get(handle)?.stream.store(stream, SeqCst);
        Ok(())
    }

    fn cublasGetStream_v2(handle: usize, stream: Out<usize>) {
        stream.set(HANDLES.get(handle)?.stream.load(SeqCst))
    }

    // Workspace and math mode choose between algorithms; there is one.
    fn cublasSetWorkspace_v2(handle: usize, _workspace: *mut c_void, _bytes: usize) {
        HANDLES.get(handle).map(|_| ())
    }

    fn cublasSetMathMode(handle: usize, mode: u32) {
        HANDLES.get(handle)?.mode.store(mode as usize, SeqCst);
        Ok(())
    }

    fn cublasGetMathMode(handle: usize, mode: Out<u32>) {
        mode.set(HANDLES.get(handle)?.mode.load(SeqCst) as u32)
    }

    fn cublasSetPointerMode_v2(handle: usize, mode: u32) {
        HANDLES.get(handle)?;
        if mode == 0 { Ok(()) } else { Err(Error::unsupported("alpha and beta in the device's memory")) }
    }

    fn cublasGetPointerMode_v2(handle: usize, mode: Out<u32>) {
        HANDLES.get(handle)?;
        mode.set(0)
    }

    fn cublasGemmEx(
        handle: usize, ta: u32, tb: u32, m: i32, n: i32, k: i32, alpha: Bytes, a: u64, a_type: u32, lda: i32,
        b: u64, b_type: u32, ldb: i32, beta: Bytes, c: u64, c_type: u32, ldc: i32, compute: u32, _algorithm: i32,
    ) {
        let problem = Problem { operations: (ta, tb), sizes: [m, n, k], batch: 1 };
        let operands = [(a, a_type, lda, 0), (b, b_type, ldb, 0), (c, c_type, ldc, 0)];
        product(handle, &problem, (alpha, beta, scale(compute)?), operands)
    }

    fn cublasGemmStridedBatchedEx(
        handle: usize, ta: u32, tb: u32, m: i32, n: i32, k: i32, alpha: Bytes, a: u64, a_type: u32, lda: i32,
        stride_a: i64, b: u64, b_type: u32, ldb: i32, stride_b: i64, beta: Bytes, c: u64, c_type: u32, ldc: i32,
        stride_c: i64, batch: i32, compute: u32, _algorithm: i32,
    ) {
        let problem = Problem { operations: (ta, tb), sizes: [m, n, k], batch };
        let operands = [(a, a_type, lda, stride_a), (b, b_type, ldb, stride_b), (c, c_type, ldc, stride_c)];
        product(handle, &problem, (alpha, beta, scale(compute)?), operands)
    }

    fn cublasGemmGroupedBatchedEx() {
        Err(Error::unsupported("cublasGemmGroupedBatchedEx"))
    }

    fn cublasSgemv_v2() {
        Err(Error::unsupported("cublasSgemv"))
    }

    fn cublasDgemv_v2() {
        Err(Error::unsupported("cublasDgemv"))
    }

    fn cublasLtCreate() {
        Err(Error::unsupported("cublasLtCreate"))
    }
}
