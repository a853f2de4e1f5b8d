import subprocess
import sys


def test_tables_load_no_distributions():
    """``normhpc collect`` needs a t quantile alone; scipy.stats would take longer than reading the records."""
    code = (
        "import sys, normhpc.results.output, normhpc.results.ranking, normhpc.results.statistics.bootstrap; "
        "import normhpc.results.statistics.survival; sys.exit('scipy.stats' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
