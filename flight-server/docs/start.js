"use strict";
// Nothing is asked of any other host: no validator, no fonts.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#api", validatorUrl: null, deepLinking: true });
