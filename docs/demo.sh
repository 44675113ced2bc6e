#!/bin/sh
# The whole path on a small corpus: real ultrasound that travels with pydicom, and simulated phantoms.
# `make demo` runs it; after `pip install` it also runs alone: sh docs/demo.sh FOLDER
set -eu
demo=${1:-demo}
began=$(date +%s)

run() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    "$@"
}

rm -rf "$demo/run" "$demo/lesions"

# From files to a verified corpus: shards that any WebDataset reader opens, and a Parquet row for each picture.
run openus build "$demo/corpus" --demo
run openus verify "$demo/corpus"

# Pretrain a small masked autoencoder on it, and see what it paints where patches are hidden.
run usfmae pretrain "$demo/corpus" --recipe demo --out "$demo/run"
run usfmae reconstruct "$demo/run"

# Fine-tune its encoder on lesions of other (simulated) patients. Then ask it about a real cine, which shows neither
# kind, and about two patients of the test fold: 1001 has a cyst, 1002 a solid lesion.
run usfmae finetune "$demo/corpus" --benchmark simulated-lesions --weights "$demo/run" --fold 1 \
    --recipe finetune-demo --out "$demo/lesions"
inputs=$demo/corpus/.work/demo-inputs
run usfmae predict "$demo/lesions" --picture "$demo/prediction.png" \
    "$inputs/pydicom-ultrasound/examples_ybr_color.dcm" \
    "$inputs/simulated-lesions/images/patient-1001_view-1.png" \
    "$inputs/simulated-lesions/images/patient-1002_view-1.png"

# Put it all on one page.
run python -m openus.demo.page "$demo"

cat <<END

Done in $(($(date +%s) - began)) s. The report to open:
  $demo/index.html
and its pictures:
  $demo/corpus.png
  $demo/run/reconstruction.png
  $demo/lesions/confusion.png
  $demo/prediction.png
The lesions are simulated and the classifier is a toy: its figures show that the path works, nothing more.
END
