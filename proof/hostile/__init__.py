"""Files from strangers, made of whole ones: parts of them replaced by what no program writes,
and bytes of them changed."""
