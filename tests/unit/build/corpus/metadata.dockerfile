from base
maintainer Some Body <some@example.org>
label one=1 "two words"="a b" multi="x\
y"
env old style value
expose 80 443/tcp 5000-5002/udp $PORT
volume ["/data", "/with space"]
volume /a /b
user app:staff
workdir "/has space"
stopsignal SIGQUIT
shell ["/bin/bash", "-o", "pipefail", "-c"]
cmd echo hello
entrypoint []
healthcheck --interval=1m30s --timeout=2s --start-period=500ms --start-interval=1s --retries=4 cmd ["curl", "-f", "x"]
healthcheck none
onbuild copy . /app
arg A B=2 C="x y"
