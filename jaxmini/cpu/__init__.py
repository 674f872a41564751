"""CPU: what makes JAX faster on a processor. This room knows nothing of the rest of jaxmini."""

from jaxmini.cpu.conv import Lowered as Lowered
from jaxmini.cpu.conv import install as install
from jaxmini.cpu.conv import uninstall as uninstall
from jaxmini.cpu.settings import keep_freed_memory as keep_freed_memory
