FROM base
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked,id=apt --mount=type=tmpfs,target=/tmp,size=64m make
RUN --mount=target=/src,rw --mount=type=bind,from=tools,source=/bin,dst=/tools,readonly make
RUN --mount=type=secret,id=token,required=true --mount=type=ssh true
