"""The samplers that there are, by the names that nodes and command line offer; `denoising` makes them."""

SAMPLERS = ("ddim", "dpmpp_2m", "euler", "unipc")
