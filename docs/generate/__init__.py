"""Pages of the site that are made from the code: what the registries, options and commands say of themselves.

They are plain Markdown, and made anew at every build. `python docs/hooks.py FOLDER` writes them into a folder, for
another generator of sites. Nothing here imports torch.
"""
