"""For all tests and doctests: no Hub but one that a test starts, no token and no cache of the person's own."""

import atexit
import os
import shutil
import signal
import tempfile

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as behind "&": what tests start could not be interrupted
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Before any test imports a library that reads them; nothing listens on the discard port.
for _name in [name for name in os.environ if name.upper().startswith(("HF_", "HUGGING"))]:
    del os.environ[_name]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny, and several tests run at a time
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
_home = tempfile.mkdtemp(prefix="hf-mllm-aug-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ["HF_HOME"] = _home
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # else whatever touches ray later starts a cluster
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
