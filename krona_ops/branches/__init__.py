"""A second attention beside each self-attention of a model: what it attends to, what it is made of; views and frames."""
