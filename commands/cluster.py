"""`hippodrome cluster-check`."""

import argparse

from .words import print_result


def check(arguments: list[str]) -> int:
    """Tell whether a cluster has what training needs. Returns the exit code: 0 if it has."""
    parser = argparse.ArgumentParser(
        prog="hippodrome cluster-check",
        description="Does this cluster have what training needs: one version of everything on all nodes, the package, "
        "devices, a shared folder, and how fast its workers add up gradients.",
    )
    parser.add_argument("--address", help='HOST:PORT of a Ray cluster, or "auto"; without it, this machine by itself')
    parser.add_argument("--num-workers", type=int, default=0, help="workers to add up with (default: one a node, or 2)")
    parser.add_argument("--gpus-per-worker", type=int, default=0, help="GPUs each of them owns (default: 0)")
    parser.add_argument("--folder", default=None, help="a folder that all nodes should see, such as that of the runs")
    parser.add_argument("--import", dest="modules", nargs="+", default=[], help="packages that workers must import")
    parser.add_argument("--json", action="store_true", help="print JSON")
    known = parser.parse_args(arguments)
    from hippodrome.training.cluster.check import check_cluster, check_table

    result = check_cluster(
        known.address,
        num_workers=known.num_workers,
        gpus_per_worker=known.gpus_per_worker,
        folder=known.folder,
        import_modules=known.modules,
    )
    print_result(result, known.json, check_table)
    return 0 if result["ok"] else 1
