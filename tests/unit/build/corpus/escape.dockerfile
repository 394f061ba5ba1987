# escape=`
FROM base
RUN dir c:\ `
  && echo `$x
COPY a `
  b\
