"use strict";

const express = require("express");

const app = express();
const port = Number(process.env.PORT || 8080);

app.get("/", (request, response) => {
  response.json({ hello: "packhorse", node: process.version, env: process.env.NODE_ENV || "" });
});

const server = app.listen(port, () => console.log(`listening on port ${port}`));

process.on("SIGTERM", () => {
  console.log("SIGTERM: finishing open requests");
  server.close(() => process.exit(0));
});
