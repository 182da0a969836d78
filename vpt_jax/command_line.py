"""How every program in launch/ starts: a config file with overrides in, one clear line out when something is wrong."""

import sys
from collections.abc import Callable

from absl import app, logging
from ml_collections import ConfigDict, config_flags


def run(main: Callable[[ConfigDict], object], config_file: str, mistakes: tuple[type[Exception], ...]) -> None:
    """Reads `--config=FILE[:VARIANT]` and `--config.FIELD=VALUE`, and calls `main` with the config.

    Args:
        main: the program.
        config_file: the config if none is given.
        mistakes: errors whose message says what to do; they end the program without a traceback.
    """
    flag = config_flags.DEFINE_config_file("config", config_file, "What to do: a file of configs/, with its variant.")

    def guarded_main(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax tells every detail of every save
        try:
            config = flag.value.copy_and_resolve_references()
        except OSError as error:  # the flag reports a missing file when it is first looked at
            sys.exit(f"error: {error}")
        try:
            main(config)
        except mistakes as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on with what is missing", file=sys.stderr)
            sys.exit(130)

    app.run(guarded_main, flags_parser=_parse)


def _parse(arguments: list[str]) -> list[str]:
    """As absl does, but a field the config does not have ends in its name and the nearest field, not in a traceback."""
    try:
        return app.parse_flags_with_usage(arguments)
    except (AttributeError, KeyError, TypeError) as error:
        message = str(error).strip("\"'").replace("\\n", ". ").replace("\\'", "'")
        sys.exit(f"error: the config has no field {message}")
