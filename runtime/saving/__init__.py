"""Saved models: what a finished job's weights are on disk, as the library that its model is of reads them.

    host store -> state, by names -> plain      one file, as safetensors' save_model writes it
                                     pretrained as transformers' save_pretrained does: configuration, files by size
                                     adapters   as peft's does: adapters, and their base where it is wanted
                                     modes      all files readable by whom the umask lets

weights: which of them, and what else belongs to a model (masters, tokenizer files)
"""
