"""The network under the heads: any timm model, cut into a frozen trunk and a tail, and the features it gives."""
