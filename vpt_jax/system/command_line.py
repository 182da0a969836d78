"""How every program in launch/ starts: a config file with overrides in, one clear line out when something is wrong."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from vpt_jax.system import stopping
from vpt_jax.system.disk_errors import explain_disk_error
from vpt_jax.system.home_folder import NoHomeError, expand_argument, expand_config
from vpt_jax.system.output import prepare_output
from vpt_jax.system.paths import RemotePathError, local_path, refuse_remote_paths, refuse_remote_settings
from vpt_jax.system.printable import escape_output
from vpt_jax.system.seeds import SeedError, check_seed
from vpt_jax.system.workers import FolderInUseError


def run(main: Callable[[ConfigDict], object], config_file: str, mistakes: tuple[type[Exception], ...]) -> None:
    """Reads `--config=FILE[:VARIANT]` and `--config.FIELD=VALUE`, and calls `main` with the config.

    Args:
        main: the program.
        config_file: the config if none is given.
        mistakes: errors whose message says what to do; they end the program without a traceback.

    SIGTERM and SIGHUP stop the program as Ctrl-C does (`stopping.py`). A URL where a path is needed ends the program
    before `main`. Control characters in what is printed are escaped, whoever wrote it.
    """
    prepare_output()
    with _one_line_errors():
        flag = config_flags.DEFINE_config_file("config", config_file, "What to do: a file of configs/ and its variant.")

    def checked_main() -> None:
        config = _read(flag)
        refuse_remote_paths(config)
        main(config)

    run_plain(checked_main, mistakes)


def run_plain(main: Callable[[], object], mistakes: tuple[type[Exception], ...]) -> None:
    """The same for a program that needs no config, only flags."""
    prepare_output()
    escape_output()
    explained: tuple[type[Exception], ...] = (*mistakes, FolderInUseError, RemotePathError)

    def guarded_main(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax tells every detail of every save
        stopping.install()
        try:
            refuse_remote_flags()
            main()
        except explained as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on with what is missing", file=sys.stderr)
            stopping.leave(stopping.STATUS)
        except Exception as error:
            if (line := explain_disk_error(error, _written())) is None:
                raise
            sys.exit(f"error: {line}")

    app.run(guarded_main, flags_parser=_parse)


def refuse_remote_flags() -> None:
    """Raises `RemotePathError` if a flag, other than the config and its fields, was given a URL in place of a path."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if flag.present and isinstance(flag.value, str) and name.partition(".")[0] != "config":
            local_path(flag.value, f"--{name}")


def _written() -> list[str]:
    """The folders that the flags say results go to."""
    folders = [flags.FLAGS["out"].value] if "out" in flags.FLAGS else []
    if "config" in flags.FLAGS and (config := flags.FLAGS["config"].value) is not None:
        folders += [config.get("out"), config.get("workdir"), config.get("classifier")]
        if isinstance(data := config.get("data"), ConfigDict):
            folders.append(data.get("embeddings"))
        elif not config.get("out"):  # results lie beside the data
            folders += [data, config.get("videos")]
    return [os.path.expanduser(folder) for folder in folders if isinstance(folder, str) and folder]


def _read(flag: flags.FlagHolder) -> ConfigDict:
    with _one_line_errors():  # the flag reports a missing file when it is first looked at
        config = flag.value.copy_and_resolve_references()
        expand_config(config)
        _check_seeds(config)
        return config


def _check_seeds(config: ConfigDict, field: str = "config") -> None:
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            _check_seeds(value, f"{field}.{name}")
        elif name == "seed":
            check_seed(value, f"{field}.{name}")


def _parse(arguments: list[str]) -> list[str]:
    with _one_line_errors():
        try:
            refuse_remote_settings(argument for argument in arguments if argument.startswith(("--config=", "-config=")))
        except RemotePathError as error:
            sys.exit(f"error: {error}")
        return flags.FLAGS([arguments[0], *map(expand_argument, arguments[1:])])


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What is wrong with a flag ends in one line that says so, not in a traceback or a list of all flags."""
    try:
        yield
    except (SeedError, NoHomeError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {_joined(error)}; start programs in the repository's folder")
    except (AttributeError, KeyError, TypeError) as error:
        sys.exit(f"error: the config has no field {_joined(error)}")
    except flags.UnrecognizedFlagError as error:
        sys.exit(f"error: {error}; fields of the config are set by --config.FIELD=VALUE")
    except flags.Error as error:
        sys.exit(f"error: {str(error).splitlines()[-1]}")  # a config's own error comes with the traceback before it


def _joined(error: Exception) -> str:
    return " ".join(str(error).strip("\"'").replace("\\n", ". ").replace("\\'", "'").split())
