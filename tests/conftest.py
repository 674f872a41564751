"""Settings of every test: eight virtual CPU devices, strict promotion, programs that compile fast and stay.

Most of a test's time is XLA's, which optimizes what runs once: it is asked not to. With
``JAXMINI_TEST_OPTIMIZED=1``, as the slow tests run, programs are compiled as users' are.
"""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = os.environ.get("JAXMINI_TEST_PLATFORM", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["JAXMINI_CPU"] = (
    "plain"  # in this process; runs in processes of their own are as users run them
)

import jax
from hypothesis import settings

CACHE = Path(__file__).parent.parent / ".cache" / "jax"

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_disable_most_optimizations", not os.environ.get("JAXMINI_TEST_OPTIMIZED"))
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

settings.register_profile("jaxmini", deadline=None, max_examples=20)
settings.load_profile("jaxmini")
