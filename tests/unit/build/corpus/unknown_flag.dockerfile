FROM base
RUN --mont=type=cache,target=/x true
