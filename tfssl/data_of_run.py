"""The data of a run that is begun or continued: the same files, and the same of them bad, as when it began.

data.json in the run's folder is the manifest of its data, see data/manifest.py; bad_files.csv names the files that
became bad in training, see data/faults.py.
"""

from tfssl import config, folders, runs
from tfssl.data import manifest
from tfssl.errors import UserError

MANIFEST = "data.json"


def make_source(settings, folder):
    """The data of resolved settings; where the folder holds a run that is not finished, as that run had them."""
    path = folder / MANIFEST
    saved = any((folder / "checkpoints").glob("ckpt-*.sha256"))
    finished = (folder / "metrics.json").is_file() and (folder / "report.html").is_file()
    before = read(path) if saved and not finished and path.is_file() else None
    with manifest.continuing(before):
        return runs.make_source(settings)


def read(path):
    """A manifest that is there, with all that one has."""
    content = config.read_json(path)
    if not isinstance(content, dict) or not content.keys() >= manifest.KEYS:
        raise UserError(f"{path}: is not what was written; choose another --output-dir, or delete that file if the "
                        "data are those that the run began with")  # fmt: skip
    return content


def hold(run, continued):
    """Write down what the run's data are or, where it is continued, see that they are still the same."""
    path = run.folder / MANIFEST
    run.source.faults.begin(run.folder, run.step if continued else None)
    if continued and path.is_file():
        try:
            manifest.compare(read(path), run.source)
        except UserError as error:
            raise UserError(f"{run.folder}: {error}") from None
    else:
        folders.write_json(path, manifest.of(run.source))
