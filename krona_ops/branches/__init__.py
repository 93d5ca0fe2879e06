"""A second attention beside each self-attention of a model: what it attends to, and what it is made of."""
