"""MVDream on stock diffusers: model, loaders, prompt encoding, sampling."""

from .denoising import SAMPLERS as SAMPLERS
from .denoising import sample_latents as sample_latents
from .foreground import foreground_masks as foreground_masks
from .loaders import convert as convert
from .loaders import load_mvdream as load_mvdream
from .loaders import load_unet as load_unet
from .multiview import predict_noise as predict_noise
from .prompts import PromptEmbedding as PromptEmbedding
from .prompts import encode_prompt as encode_prompt
from .sampling import sample_objects as sample_objects
from .sampling import sample_views as sample_views
