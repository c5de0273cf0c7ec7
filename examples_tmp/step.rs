use std::collections::BTreeMap; use std::path::Path; use candle_core::{Device,Tensor};
use qwen_nvfp4::{checkpoint::*,context::Cx,model::{config::TransformerConfig,transformer::*}};
fn w(p:&str)->Weights{ let f=SafetensorsFile::open(Path::new(p)).unwrap(); let v:BTreeMap<_,_>=f.names().map(|n|(n.to_owned(),f.view(n).unwrap())).collect(); Weights::new(Component::Transformer,Path::new(p),&Device::Cpu,v)}
fn main(){
 let c=TransformerConfig{num_layers:2,num_attention_heads:24,attention_head_dim:128,in_channels:64,out_channels:16,patch_size:2,joint_attention_dim:3584,mlp_dim:12288,axes_dims_rope:[16,56,56]};
 let t=QwenImageTransformer::load(&w("/tmp/syn/transformer/diffusion_pytorch_model.safetensors"),&c).unwrap();
 let io=w("/tmp/syn/io.safetensors");
 let i=Input{img:io.tensor("x",&[1,1024,64]).unwrap(),txt:io.tensor("t",&[1,60,3584]).unwrap(),txt_lengths:vec![60],timestep:0.7,grid:(32,32)};
 let y=io.tensor("y",&[1,1024,64]).unwrap();
 let pool=rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
 for _ in 0..3{ let s=std::time::Instant::now(); let o=pool.install(||t.forward(&i,&Cx::default())).unwrap(); println!("rust step {:?}",s.elapsed());
  let d=(&o-&y).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
  let r=y.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt(); println!("max diff/rms {:.2e}",d/r);}
}
