"""The web server against plain ones, and under load.

    python benchmarks/web.py                        # everything
    python benchmarks/web.py --part upload          # uploads beside a bare Starlette upload, and their memory
    python benchmarks/web.py --part latency         # page and API while a study trains and an upload streams
    python benchmarks/web.py --part large           # a study of 50,000 trials: first paint, bytes a minute

`--gigabytes 0.2 2` and `--rounds 5` are for upload, `--seconds 60` for latency and large.
"""

import parts

PARTS = {
    "upload": ("peers.web_upload", ("gigabytes", "rounds")),
    "latency": ("peers.web_latency", ("seconds",)),
    "large": ("peers.web_large", ("seconds",)),
}


def main() -> None:
    """Run the parts that are asked for."""
    parser = parts.parser_of(__doc__, PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.2, 2.0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parts.run(PARTS, parser.parse_args())


if __name__ == "__main__":
    main()
