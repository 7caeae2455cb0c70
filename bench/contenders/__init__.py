"""The contenders, one small file each, set up as their own documentation says for production."""
