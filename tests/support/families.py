"""Every model family of the host without a checkpoint: its own classes on the meta device, full width, few blocks.

The configurations are what `comfy.model_detection` reads off real checkpoints; only the number of blocks is smaller,
except where a class ties its width to its depth. Nothing here holds memory: a 12-billion-parameter model is names and shapes.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

_UNET = {
    "use_checkpoint": False, "image_size": 32, "out_channels": 4, "in_channels": 4, "use_spatial_transformer": True, "legacy": False,
    "model_channels": 320, "adm_in_channels": None, "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip
_SD = {
    **_UNET, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "transformer_depth_middle": 1,
}  # fmt: skip
_SD15 = {**_SD, "use_linear_in_transformer": False, "context_dim": 768, "num_heads": 8}
_SD2 = {**_SD, "use_linear_in_transformer": True, "context_dim": 1024, "num_head_channels": 64}
_SDXL = {
    **_UNET, "num_classes": "sequential", "adm_in_channels": 2816, "channel_mult": [1, 2, 4], "num_res_blocks": [2, 2, 2],
    "use_linear_in_transformer": True, "context_dim": 2048, "num_head_channels": 64,
}  # fmt: skip
_SVD = {
    **_SD2, "in_channels": 8, "num_classes": "sequential", "adm_in_channels": 768, "use_temporal_attention": True,
    "use_temporal_resblock": True, "extra_ff_mix_layer": True, "use_spatial_context": True, "merge_factor": 0.0,
    "merge_strategy": "learned_with_images", "video_kernel_size": [3, 1, 1], "disable_temporal_crossattention": False,
}  # fmt: skip
_FLUX = {
    "image_model": "flux", "axes_dim": [16, 56, 56], "num_heads": 24, "mlp_ratio": 4.0, "theta": 10000, "out_channels": 16,
    "qkv_bias": True, "txt_ids_dims": [], "patch_size": 2, "in_channels": 16, "hidden_size": 3072, "context_in_dim": 4096,
    "vec_in_dim": 768, "depth": 3, "depth_single_blocks": 4, "guidance_embed": True,
}  # fmt: skip
_FLUX2 = {
    **_FLUX, "image_model": "flux2", "axes_dim": [32, 32, 32, 32], "num_heads": 48, "mlp_ratio": 3.0, "theta": 2000,
    "out_channels": 128, "global_modulation": True, "mlp_silu_act": True, "qkv_bias": False, "ops_bias": False,
    "default_ref_method": "index", "ref_index_scale": 10.0, "txt_ids_dims": [3], "patch_size": 1, "in_channels": 128,
    "hidden_size": 6144, "context_in_dim": 15360, "vec_in_dim": None,
}  # fmt: skip
_CHROMA = {
    **{k: v for k, v in _FLUX.items() if k != "guidance_embed"}, "image_model": "chroma", "in_channels": 64, "out_channels": 64,
    "in_dim": 64, "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5, "vec_in_dim": None,
}  # fmt: skip
_HUNYUAN_VIDEO = {
    "image_model": "hunyuan_video", "in_channels": 16, "patch_size": [1, 2, 2], "out_channels": 16, "vec_in_dim": 768,
    "axes_dim": [16, 56, 56], "meanflow": False, "context_in_dim": 4096, "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24,
    "depth": 3, "depth_single_blocks": 4, "theta": 256, "qkv_bias": True, "byt5": False, "guidance_embed": True,
    "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
_WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "dim": 1536, "out_dim": 16, "num_heads": 12, "ffn_dim": 8960, "num_layers": 3,
    "patch_size": (1, 2, 2), "freq_dim": 256, "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
    "in_dim": 16,
}  # fmt: skip
_COSMOS = {
    "image_model": "cosmos", "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16,
    "patch_spatial": 2, "patch_temporal": 1, "model_channels": 4096, "block_config": "FA-CA-MLP", "concat_padding_mask": True,
    "pos_emb_cls": "rope3d", "pos_emb_learnable": False, "pos_emb_interpolation": "crop", "block_x_format": "THWBD",
    "affline_emb_norm": True, "use_adaln_lora": True, "adaln_lora_dim": 256, "num_blocks": 3, "num_heads": 32,
    "extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable",
}  # fmt: skip
_PREDICT2 = {
    "image_model": "cosmos_predict2", "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16,
    "patch_spatial": 2, "patch_temporal": 1, "model_channels": 2048, "concat_padding_mask": True, "crossattn_emb_channels": 1024,
    "pos_emb_cls": "rope3d", "pos_emb_learnable": True, "pos_emb_interpolation": "crop", "min_fps": 1, "max_fps": 30,
    "use_adaln_lora": True, "adaln_lora_dim": 256, "num_blocks": 3, "num_heads": 16, "extra_per_block_abs_pos_emb": False,
    "rope_enable_fps_modulation": False,
}  # fmt: skip
_LUMINA2 = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 2304, "cap_feat_dim": 2304, "n_layers": 3, "qk_norm": True,
    "n_heads": 24, "n_kv_heads": 8, "axes_dims": [32, 32, 32], "axes_lens": [300, 512, 512], "rope_theta": 10000.0,
    "ffn_dim_multiplier": 4.0,
}  # fmt: skip
_Z_IMAGE = {
    **_LUMINA2, "dim": 3840, "cap_feat_dim": 2560, "n_heads": 30, "n_kv_heads": 30, "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True,
    "time_scale": 1000.0, "pad_tokens_multiple": 32,
}  # fmt: skip
_SD3 = {
    "in_channels": 16, "patch_size": 2, "out_channels": 16, "depth": 24, "num_blocks": 3, "input_size": None, "adm_in_channels": 2048,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}},
    "num_patches": 36864, "pos_embed_max_size": 192, "pos_embed_scaling_factor": None,
}  # fmt: skip
_PIXART = {"num_heads": 16, "patch_size": 2, "hidden_size": 1152, "in_channels": 4, "depth": 3, "model_max_length": 120, "input_size": 128,
           "pe_interpolation": 2}  # fmt: skip
_HYDIT = {"image_model": "hydit", "depth": 4, "hidden_size": 1408, "mlp_ratio": 4.3637}
_HUNYUAN3D = {"image_model": "hunyuan3d2", "in_channels": 64, "context_in_dim": 1536, "hidden_size": 1024, "mlp_ratio": 4.0,
              "num_heads": 16, "depth": 3, "depth_single_blocks": 4, "qkv_bias": True, "guidance_embed": False}  # fmt: skip
_COGVIDEO = {"image_model": "cogvideox", "num_attention_heads": 48, "attention_head_dim": 64, "time_embed_dim": 512, "num_layers": 3,
             "in_channels": 16, "patch_size": 2, "text_embed_dim": 4096, "use_rotary_positional_embeddings": True,
             "use_learned_positional_embeddings": False}  # fmt: skip
_KANDINSKY5 = {"image_model": "kandinsky5", "model_dim": 1792, "axes_dims": (16, 24, 24), "time_dim": 512, "ff_dim": 7168,
               "visual_embed_dim": 132, "num_text_blocks": 2, "num_visual_blocks": 3}  # fmt: skip
_PIXELDIT = {"image_model": "pixeldit_t2i"}
_SEEDVR2 = {
    "image_model": "seedvr2",
    "vid_dim": 2560,
    "heads": 20,
    "num_layers": 12,
    "norm_eps": 1e-5,
    "mlp_type": "swiglu",
    "vid_out_norm": True,
}

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    # UNets
    "SD15": _SD15,
    "SD20": _SD2,
    "SD21UnclipL": {**_SD2, "num_classes": "sequential", "adm_in_channels": 1536},
    "SD21UnclipH": {**_SD2, "num_classes": "sequential", "adm_in_channels": 2048},
    "SDXL": {**_SDXL, "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
             "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10]},
    "SSD1B": {**_SDXL, "transformer_depth": [0, 0, 2, 2, 4, 4], "transformer_depth_middle": -1,
              "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4]},
    "Segmind_Vega": {**_SDXL, "transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": -1,
                     "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2]},
    "KOALA_700M": {**_SDXL, "num_res_blocks": [1, 1, 1], "transformer_depth": [0, 2, 5], "transformer_depth_middle": -2,
                   "transformer_depth_output": [0, 0, 2, 2, 5, 5]},
    "KOALA_1B": {**_SDXL, "num_res_blocks": [1, 1, 1], "transformer_depth": [0, 2, 6], "transformer_depth_middle": 6,
                 "transformer_depth_output": [0, 0, 2, 2, 6, 6]},
    "SDXLRefiner": {**_SDXL, "adm_in_channels": 2560, "model_channels": 384, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
                    "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0], "transformer_depth_middle": 4, "context_dim": 1280,
                    "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0]},
    "SD15_instructpix2pix": {**_SD15, "in_channels": 8},
    "SDXL_instructpix2pix": {**_SDXL, "in_channels": 8, "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
                             "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10]},
    "LotusD": {**_SD2, "adm_in_channels": 4},
    "Stable_Zero123": {**_SD15, "in_channels": 8},
    "SD_X4Upscaler": {**_SD2, "model_channels": 256, "in_channels": 7, "channel_mult": [1, 2, 2, 4],
                      "transformer_depth": [0, 0, 1, 1, 1, 1, 1, 1],
                      "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]},
    "SVD_img2vid": _SVD,
    "SV3D_u": {**_SVD, "adm_in_channels": 256},
    "SV3D_p": {**_SVD, "adm_in_channels": 1280},
    "Stable_Cascade_C": {"stable_cascade_stage": "c", "c_cond": 2048, "blocks": [[1, 2], [2, 1]]},
    "Stable_Cascade_B": {"stable_cascade_stage": "b", "blocks": [[1, 1, 2, 1], [1, 2, 1, 1]]},
    # image transformers
    "SD3": _SD3,
    "SD3 (3.5 medium)": {**_SD3, "qk_norm": "rms", "x_block_self_attn_layers": [0, 1], "num_patches": 147456, "pos_embed_max_size": 384},
    "AuraFlow": {"max_seq": 1024, "cond_seq_dim": 2048, "n_double_layers": 2, "n_layers": 5},
    "PixArtAlpha": {**_PIXART, "image_model": "pixart_alpha", "micro_condition": True},
    "PixArtSigma": {**_PIXART, "image_model": "pixart_sigma", "micro_condition": False},
    "HunyuanDiT": _HYDIT,
    "HunyuanDiT1": {**_HYDIT, "image_model": "hydit1", "size_cond": True, "use_style_cond": True},
    "Flux": _FLUX,
    "FluxInpaint": {**_FLUX, "in_channels": 96},
    "FluxSchnell": {**_FLUX, "guidance_embed": False},
    "LongCatImage": {**_FLUX, "guidance_embed": False, "vec_in_dim": None, "context_in_dim": 3584, "txt_ids_dims": [1, 2]},
    "Flux2": _FLUX2,
    "Flux2 (Klein 4B)": {**_FLUX2, "hidden_size": 3072, "num_heads": 24, "context_in_dim": 7680},
    "Chroma": _CHROMA,
    "ChromaRadiance": {**_CHROMA, "image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3, "patch_size": 16,
                       "nerf_hidden_size": 64, "nerf_mlp_ratio": 4, "nerf_depth": 4, "nerf_max_freqs": 8, "nerf_tile_size": 512,
                       "nerf_final_head_type": "conv", "nerf_embedder_dtype": None, "use_x0": False, "use_sequential_txt_ids": False},
    "Lumina2": _LUMINA2,
    "ZImage": _Z_IMAGE,
    "ZImagePixelSpace": {**_Z_IMAGE, "image_model": "zimage_pixel", "patch_size": 32, "in_channels": 3, "decoder_in_channels": 3072,
                         "decoder_hidden_size": 3840, "decoder_num_res_blocks": 4, "decoder_max_freqs": 8},
    "QwenImage": {"image_model": "qwen_image", "in_channels": 64, "num_layers": 3},
    "Krea2": {"image_model": "krea2", "features": 6144, "channels": 16, "patch": 2, "layers": 3, "heads": 48, "kvheads": 12,
              "txtlayers": 12, "txtdim": 2560},
    "HiDream": {"image_model": "hidream", "attention_head_dim": 128, "axes_dims_rope": [64, 32, 32], "caption_channels": [4096, 4096],
                "max_resolution": [128, 128], "in_channels": 16, "llama_layers": list(range(7)), "num_attention_heads": 20,
                "num_routed_experts": 4, "num_activated_experts": 2, "num_layers": 3, "num_single_layers": 4, "out_channels": 16,
                "patch_size": 2, "text_emb_dim": 2048},
    "HiDreamO1": {"image_model": "hidream_o1"},
    "Omnigen2": {"image_model": "omnigen2", "axes_dim_rope": [40, 40, 40], "axes_lens": [1024, 1664, 1664], "hidden_size": 2520,
                 "in_channels": 16, "num_attention_heads": 21, "num_kv_heads": 7, "num_layers": 3, "num_refiner_layers": 2,
                 "text_feat_dim": 2048, "timestep_scale": 1000.0, "out_channels": None, "patch_size": 2, "multiple_of": 256,
                 "norm_eps": 1e-5, "ffn_dim_multiplier": None},
    "Boogu": {"image_model": "boogu", "hidden_size": 3360, "num_layers": 3, "num_double_stream_layers": 2, "num_refiner_layers": 2,
              "instruction_feat_dim": 4096},
    "MageFlow": {"image_model": "mage_flow", "in_channels": 128, "num_layers": 3},
    "JoyImage": {"image_model": "joyimage", "in_channels": 16, "hidden_size": 3072, "patch_size": [1, 2, 2], "num_layers": 3,
                 "num_attention_heads": 24, "text_dim": 4096},
    "Ideogram4": {"image_model": "ideogram4", "in_channels": 128, "num_layers": 3},
    "ErnieImage": {"image_model": "ernie", "num_layers": 3},
    "Lens": {"image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 3, "num_attention_heads": 24,
             "enc_hidden_dim": 2880, "multi_layer_encoder_feature": True, "selected_layer_index": (0, 1, 2, 3)},
    "PixelDiTT2I": _PIXELDIT,
    "PiD": {"image_model": "pid", "lq_hidden_dim": 512, "lq_interval": 2, "lq_latent_channels": 16, "latent_spatial_down_factor": 8},
    "Kandinsky5Image": {**_KANDINSKY5, "model_dim": 2560, "visual_embed_dim": 64, "axes_dims": (32, 48, 48), "ff_dim": 10240},
    "HunyuanImage21": {**_HUNYUAN_VIDEO, "vec_in_dim": None, "patch_size": [2, 2], "axes_dim": [64, 64], "in_channels": 64,
                       "out_channels": 64, "hidden_size": 3584, "num_heads": 28, "context_in_dim": 3584, "byt5": True},
    "HunyuanImage21Refiner": {**_HUNYUAN_VIDEO, "vec_in_dim": None, "patch_size": [1, 1, 1], "in_channels": 128, "out_channels": 64,
                              "hidden_size": 3328, "num_heads": 26, "context_in_dim": 3584, "meanflow": True},
    "CosmosT2IPredict2": _PREDICT2,
    "Anima": {**_PREDICT2, "image_model": "anima"},
    # video transformers
    "GenmoMochi": {"image_model": "mochi_preview", "depth": 3, "patch_size": 2, "num_heads": 24, "hidden_size_x": 3072,
                   "hidden_size_y": 1536, "mlp_ratio_x": 4.0, "mlp_ratio_y": 4.0, "learn_sigma": False, "in_channels": 12,
                   "qk_norm": True, "qkv_bias": False, "out_bias": True, "attn_drop": 0.0, "patch_embed_bias": True,
                   "posenc_preserve_area": True, "timestep_mlp_bias": True, "attend_to_padding": False, "timestep_scale": 1000.0,
                   "use_t5": True, "t5_feat_dim": 4096, "t5_token_length": 256, "rope_theta": 10000.0},
    "LTXV": {"image_model": "ltxv", "num_layers": 3, "attention_head_dim": 64, "cross_attention_dim": 2048},
    "LTXAV": {"image_model": "ltxav", "num_layers": 3, "attention_head_dim": 128, "cross_attention_dim": 4096},
    "HunyuanVideo": _HUNYUAN_VIDEO,
    "HunyuanVideoI2V": {**_HUNYUAN_VIDEO, "in_channels": 33},
    "HunyuanVideoSkyreelsI2V": {**_HUNYUAN_VIDEO, "in_channels": 32},
    "HunyuanVideo15": {**_HUNYUAN_VIDEO, "in_channels": 65, "vec_in_dim": None, "hidden_size": 2048, "num_heads": 16, "context_in_dim": 3584,
                       "vision_in_dim": 1152, "byt5": True, "use_cond_type_embedding": True, "depth_single_blocks": 0},
    "HunyuanVideo15_SR_Distilled": {**_HUNYUAN_VIDEO, "in_channels": 98, "vec_in_dim": None, "hidden_size": 2048, "num_heads": 16,
                                    "context_in_dim": 3584, "vision_in_dim": 1152, "byt5": True, "use_cond_type_embedding": True,
                                    "depth_single_blocks": 0},
    "CosmosT2V": _COSMOS,
    "CosmosI2V": {**_COSMOS, "in_channels": 17},
    "CosmosI2VPredict2": {**_PREDICT2, "in_channels": 17},
    "WAN21_T2V": _WAN,
    "WAN21_CausalAR_T2V": {**_WAN, "causal_ar": True},
    "WAN21_I2V": {**_WAN, "model_type": "i2v", "in_dim": 36, "dim": 5120, "num_heads": 40, "ffn_dim": 13824},
    "WAN21_FunControl2V": {**_WAN, "model_type": "i2v", "in_dim": 48},
    "WAN22_T2V": {**_WAN, "dim": 3072, "num_heads": 24, "ffn_dim": 14336, "in_dim": 48, "out_dim": 48},
    "WAN21_Vace": {**_WAN, "model_type": "vace", "vace_in_dim": 96, "vace_layers": 2},
    "WAN21_Camera": {**_WAN, "model_type": "camera", "in_dim": 32},
    "WAN22_Camera": {**_WAN, "model_type": "camera_2.2", "in_dim": 36},
    "WAN22_S2V": {**_WAN, "model_type": "s2v"},
    "WAN21_HuMo": {**_WAN, "model_type": "humo", "in_dim": 36},
    "WAN22_Animate": {**_WAN, "model_type": "animate", "in_dim": 36, "dim": 5120, "num_heads": 40, "ffn_dim": 13824, "num_layers": 5},
    "WAN21_FlowRVS": {**_WAN, "model_type": "flow_rvs"},
    "WAN21_SCAIL": {**_WAN, "model_type": "scail", "in_dim": 20, "dim": 5120, "num_heads": 40, "ffn_dim": 13824},
    "WAN21_SCAIL2": {**_WAN, "model_type": "scail2", "in_dim": 20, "dim": 5120, "num_heads": 40, "ffn_dim": 13824},
    "WAN22_WanDancer": {**_WAN, "model_type": "wandancer", "in_dim": 36, "dim": 5120, "num_heads": 40, "ffn_dim": 13824},
    "Kandinsky5": _KANDINSKY5,
    "MiniMaxH3": {"image_model": "minimax_h3", "num_layers": 3},
    "CogVideoX_T2V": _COGVIDEO,
    "CogVideoX_I2V": {**_COGVIDEO, "in_channels": 32},
    "CogVideoX_Inpaint": {**_COGVIDEO, "in_channels": 48},
    "SeedVR2": _SEEDVR2,
    # sound, shape and sight
    "StableAudio": {"audio_model": "dit1.0", "global_cond_dim": 1536, "project_cond_tokens": False, "embed_dim": 1536, "depth": 3,
                    "io_channels": 64, "input_concat_dim": 0, "timestep_features_type": "learned"},
    "StableAudio3": {"audio_model": "dit1.0", "global_cond_shared_embed": True, "global_cond_type": "adaLN", "global_cond_dim": 768,
                     "project_cond_tokens": False, "embed_dim": 1536, "depth": 3, "io_channels": 256, "input_concat_dim": 0,
                     "timestep_features_type": "expo", "num_heads": 24, "norm_type": "rms_norm",
                     "attn_kwargs": {"qk_norm": "rms", "differential": True}},
    "ACEStep": {"audio_model": "ace", "attention_head_dim": 128, "in_channels": 8, "inner_dim": 2560, "max_height": 16,
                "max_position": 32768, "max_width": 32768, "mlp_ratio": 2.5, "num_attention_heads": 20, "num_layers": 3,
                "out_channels": 8, "patch_size": [16, 1], "rope_theta": 1e6, "speaker_embedding_dim": 512, "text_embedding_dim": 768,
                "ssl_encoder_depths": [8, 8], "ssl_latent_dims": [1024, 768], "ssl_names": ["mert", "m-hubert"],
                "lyric_encoder_vocab_size": 6693, "lyric_hidden_size": 1024},
    "ACEStep15": {"audio_model": "ace1.5", "num_dit_layers": 3, "num_lyric_layers": 2, "num_timbre_layers": 2, "hidden_size": 256,
                  "intermediate_size": 320, "encoder_hidden_size": 256, "encoder_intermediate_size": 320, "num_heads": 2,
                  "encoder_num_heads": 2, "num_kv_heads": 1, "text_hidden_dim": 64, "fsq_dim": 256},
    "Hunyuan3Dv2": _HUNYUAN3D,
    "Hunyuan3Dv2mini": {**_HUNYUAN3D, "depth": 8, "depth_single_blocks": 2},
    "Hunyuan3Dv2_1": {"image_model": "hunyuan3d2_1", "in_channels": 64, "context_dim": 1024, "hidden_size": 2048, "mlp_ratio": 4.0,
                      "num_heads": 16, "depth": 6, "qkv_bias": False, "guidance_cond_proj_dim": None, "num_moe_layers": 2},
    "TripoSplat": {"image_model": "triposplat"},
    "DepthAnything3": {"image_model": "DepthAnything3", "backbone_name": "vits"},
    "RT_DETR_v4": {"image_model": "RT_DETR_v4", "enc_h": 256},
    "SAM3": {"image_model": "SAM3"},
    "SAM31": {"image_model": "SAM31"},
}  # fmt: skip
"""What detection would read off a checkpoint of each family, by the name of the host's class, a variant in brackets."""


def class_name(family: str) -> str:
    """The host's configuration class: ``"SD3 (3.5 medium)"`` is one of ``SD3``."""
    return family.split(" (")[0]


_NUMBER = {
    "embedder.embedding.1.weight": (768, 257),
    "embedder.embedding.1.bias": (768,),
    "embedder.embedding.0.weights": (128,),
}
_SECONDS = "conditioner.conditioners.seconds_{}."
_WANTED: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "Stable_Zero123": {"cc_projection.weight": (768, 772), "cc_projection.bias": (768,)},
    "StableAudio": {_SECONDS.format(end) + key: shape for end in ("start", "total") for key, shape in _NUMBER.items()},
    "StableAudio3": {
        _SECONDS.format("total") + "embedder.embedding.1.weight": (768, 256),
        _SECONDS.format("total") + "embedder.embedding.1.bias": (768,),
    },
}
"""Weights of a checkpoint that a class wants to see while it is built."""
_ON_CPU = ("ACEStep15",)
"""Families whose constructors compute with tensors, so that they are built for real, and narrow."""


def build(family: str) -> Any:
    """The host's model of a family as a ``ModelPatcher`` shows it, with a ``.model``."""
    supported = importlib.import_module("comfy.supported_models")
    torch = importlib.import_module("torch")
    config = getattr(supported, class_name(family))(dict(FAMILIES[family]))
    weights = {key: torch.zeros(shape) for key, shape in _WANTED.get(family, {}).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the host's upscaler copies tensors in ways that torch and numpy dislike
        return SimpleNamespace(model=config.get_model(weights, "", device="cpu" if family in _ON_CPU else "meta"))


def missing() -> set[str]:
    """Families that the installed ComfyUI has and this table has not."""
    supported = importlib.import_module("comfy.supported_models")
    return {model.__name__ for model in supported.models} - {class_name(family) for family in FAMILIES}


def gone() -> set[str]:
    """Families of this table that the installed ComfyUI has not: an older one, or one that renamed them."""
    supported = importlib.import_module("comfy.supported_models")
    return {class_name(family) for family in FAMILIES if not hasattr(supported, class_name(family))}


def present() -> list[str]:
    """The families of this table that the installed ComfyUI has, in the table's order."""
    return [family for family in FAMILIES if class_name(family) not in gone()]
