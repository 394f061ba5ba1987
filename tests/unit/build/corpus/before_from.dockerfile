ARG A
RUN true
FROM base
