"""Training of RWKV-CLIP and CLIP."""

from rwkvclip_models.moved import install

install(
    {
        "rwkvclip_train.digit_texts": ("rwkvclip_train.data.digit_texts",),
        "rwkvclip_train.losses": ("rwkvclip_train.objectives.contrastive",),
        "rwkvclip_train.schedule": ("rwkvclip_train.optim.schedule",),
    },
    packages={
        "rwkvclip_train.data": (
            "rwkvclip_train.data.pairs",
            "rwkvclip_train.data.open",
            "rwkvclip_train.data.source",
        )
    },
)
