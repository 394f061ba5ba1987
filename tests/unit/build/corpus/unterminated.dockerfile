FROM base
RUN <<EOT
echo never ends
