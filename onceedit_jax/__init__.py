"""Edit one small language model once; every target LLM answers with the new facts.

    import onceedit_jax as oe

`__init__.pyi` lists the public names. Each is imported when it is first used, so that
`import onceedit_jax` and `onceedit --help` cost nothing.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
