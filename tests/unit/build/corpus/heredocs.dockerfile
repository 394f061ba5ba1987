# syntax=docker/dockerfile:1
FROM base
RUN <<EOF
set -e
echo "a  b" \
  c
# not a comment

EOF
RUN python3 <<-'PY' && echo "<<none"
	print("x")
	PY
COPY --chmod=755 <<one <<"two" /dir/
$A
one
$B
two
ADD <<EOF /file
EOF
ONBUILD RUN <<EOF
later
EOF
