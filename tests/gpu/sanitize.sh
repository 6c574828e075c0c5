#!/usr/bin/env bash
# compute-sanitizer on the tests of the kernels: on a machine with a card and the CUDA toolkit. Ends with 0 when clean.
#   tests/gpu/sanitize.sh [more arguments of pytest]
set -euo pipefail
cd "$(dirname "$0")/../.."

command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is missing; it comes with the CUDA toolkit" >&2; exit 2; }
tests="tests/gpu/test_compare_on_card.py tests/gpu/test_insert_on_card.py tests/gpu/test_boxes_on_card.py"
tests="$tests tests/gpu/test_reference_on_card.py"
for tool in memcheck racecheck initcheck; do
    echo "== $tool"
    # every array gets an allocation of its own: in a pool nobody sees what lies beyond
    # shellcheck disable=SC2086
    compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all \
        python -m pytest $tests --device gpu --own-allocations -q "$@"
done
