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

# From files to a verified corpus: shards that any WebDataset reader opens, a row in Parquet for each picture.
run openus build "$demo/corpus" --demo
run openus verify "$demo/corpus"

# Pretrain a small masked autoencoder on it, and see what it makes of pictures with most patches hidden.
run usfmae pretrain "$demo/corpus" --recipe demo --out "$demo/run"
run usfmae reconstruct "$demo/run"

# Fine-tune the encoder on labelled lesions of other (simulated) patients, then ask it about a real cine.
run usfmae finetune "$demo/corpus" --benchmark simulated-lesions --weights "$demo/run" --fold 1 --out "$demo/lesions"
run usfmae predict "$demo/lesions" "$demo/corpus/.work/inputs/pydicom-ultrasound/examples_ybr_color.dcm"

printf '\nDone in %d s. Look at:\n' $(($(date +%s) - began))
find "$demo" -path "$demo/corpus/.work" -prune -o \( -name '*.png' -o -name 'report.html' -o -name 'README.md' \) -print |
    sort | sed 's/^/  /'
echo "The lesions are simulated and the classifier is a toy: its figures show that the path works, nothing more."
