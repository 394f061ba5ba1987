# a comment first
FROM debian:trixie
RUN apt-get update && \
    # a comment inside
    apt-get install -y \

      curl \ 
      git
ENV A=1 \
    B="two words" \
    C=three\ words
