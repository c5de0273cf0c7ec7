//! Calls of the driver API that programs may link and that the emulator does not do. They say so.

use super::ffi::api;
use super::status::{Error, answer};

macro_rules! unsupported {
    ($($name:ident)*) => {
        api! { table, answer; $(fn $name() { Err(Error::unsupported(stringify!($name))) })* }
    };
}

unsupported! {
    cuCtxCreate_v3
    cuCtxGetCacheConfig
    cuCtxGetLimit
    cuCtxSetCacheConfig
    cuCtxSetLimit
    cuDestroyExternalMemory
    cuDeviceGetDefaultMemPool
    cuDeviceGetMemPool
    cuDeviceSetMemPool
    cuExternalMemoryGetMappedBuffer
    cuGetExportTable
    cuGraphAddKernelNode_v2
    cuGraphCreate
    cuGraphExecUpdate_v2
    cuImportExternalMemory
    cuLaunchCooperativeKernel
    cuLibraryGetKernel
    cuLibraryLoadData
    cuLibraryUnload
    cuLinkAddData_v2
    cuLinkComplete
    cuLinkCreate_v2
    cuLinkDestroy
    cuMemAdvise_v2
    cuMemAllocFromPoolAsync
    cuMemAllocManaged
    cuMemAllocPitch_v2
    cuMemHostGetDevicePointer_v2
    cuMemHostRegister_v2
    cuMemHostUnregister
    cuMemPoolCreate
    cuMemPoolDestroy
    cuMemPoolGetAttribute
    cuMemPoolSetAttribute
    cuMemPoolTrimTo
    cuMemPrefetchAsync_v2
    cuMemcpy2DAsync_v2
    cuMemcpy2D_v2
    cuOccupancyMaxActiveClusters
    cuOccupancyMaxPotentialClusterSize
    cuPointerGetAttribute
    cuPointerGetAttributes
    cuStreamAttachMemAsync
    cuStreamGetCaptureInfo_v3
    cuTensorMapEncodeTiled
}
